from tests.cli.run_cli import notes, pocketft, session

__all__ = ["notes", "pocketft", "session"]
