"""The peers' own environment: the same torch as ours, and TRL with what it needs, in .bench/peers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv

from benchmark.places import CHECKOUT, PEERS

_CONSTRAINTS = CHECKOUT / "constraints.txt"
# torch first and alone: pip then takes the build that this machine's package index prefers, and keeps it.
_STEPS = (("torch",), ("trl", "peft", "transformers", "bitsandbytes", "accelerate", "datasets"))


def peers_python() -> str:
    """The interpreter of the peers' environment, made at first use and again when the tested versions change."""
    python = PEERS / "bin" / "python"
    wanted = hashlib.sha256(_CONSTRAINTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    stamp = PEERS / f".made-{wanted}"
    if stamp.exists():
        return str(python)
    print("Installing the peers: TRL, PEFT, transformers (a few minutes the first time)", file=sys.stderr)
    venv.create(PEERS, with_pip=True, clear=True)
    for packages in _STEPS:
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(_CONSTRAINTS), *packages]
        if subprocess.run([str(python), *install]).returncode:
            raise SystemExit(
                f"error: pip could not install {' '.join(packages)}; the lines above say why. An interpreter that has "
                "them can be named: --peers PYTHON"
            )
    stamp.touch()
    return str(python)
