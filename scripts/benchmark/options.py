"""What was said on the command line of `scripts/bench`."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.peers_environment import peers_python


@dataclass(frozen=True)
class Options:
    """None leaves a number to the section."""

    repeats: int | None = None
    steps: int | None = None
    quick: bool = False
    only: tuple[str, ...] = ()
    peers: str | None = None

    def wants(self, name: str) -> bool:
        return not self.only or any(word.lower() in name.lower() for word in self.only)

    def peers_python(self) -> str:
        """The interpreter of the peers; their environment is made where there is none yet."""
        return self.peers or peers_python()
