"""`python -m pocketft`, for where the console script is not on the PATH."""

from pocketft.cli.app import run

if __name__ == "__main__":
    run()
