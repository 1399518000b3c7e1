"""`--memory` at the verbs that do not train: the program itself, in a process of its own, with its peak measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.adapters.export_world import random_run
from tests.tiny_models import write_tiny_gguf

MB = 1 << 20
ENOUGH = 900 * MB  # the libraries are larger where torch is built for GPUs
PROGRAM = """
import sys
from pocketft.cli.app import run
from pocketft.memory.meter import peak_rss_bytes
try:
    run(sys.argv[1:])
finally:
    print(f"peak {peak_rss_bytes()}", file=sys.stderr)
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    errors: list[str]  # lines
    peak_bytes: int


def pocketft(*words: str | Path) -> Ran:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *said, peak = done.stderr.splitlines()
    return Ran(done.returncode, done.stdout, said, int(peak.removeprefix("peak ")))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POCKETFT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return tmp_path


@pytest.fixture
def base(home: Path) -> Path:
    return write_tiny_gguf(home / "tiny.gguf")


@pytest.fixture
def adapters(home: Path, base: Path) -> list[Path]:
    return [random_run(home / name, base, seed).path for seed, name in enumerate("ab")]


def prepared(home: Path) -> list[Path]:
    return [path for path in (home / "cache" / "stores").iterdir() if path.is_dir()]


@pytest.mark.parametrize("words", [("models", "pull"), ("init-group", "start", "--model")])
def test_a_base_is_prepared_inside_the_cap_or_not_at_all(home: Path, base: Path, words: tuple[str, ...]) -> None:
    ran = pocketft(*words, base, "--memory", "120MB")
    assert ran.code == 1 and not ran.out
    assert ran.errors[-1].startswith("error: preparing") and "more than the cap of 120 MB" in ran.errors[-1]
    assert not prepared(home) and not (home / "start").exists()
    ran = pocketft(*words, base, "--memory", f"{ENOUGH}B")
    assert ran.code == 0, ran.errors
    assert len(prepared(home)) == 1


def test_a_merge_keeps_to_the_cap_or_is_not_written(home: Path, adapters: list[Path]) -> None:
    ran = pocketft("merge", *adapters, "-o", "merge", "--memory", "120MB")
    assert ran.code == 1 and "the cap of 120 MB" in ran.errors[-1] and not ran.out
    assert not (home / "merge").exists()
    ran = pocketft("merge", *adapters, "-o", "merge", "--memory", f"{ENOUGH}B")
    assert ran.code == 0 and ran.peak_bytes <= ENOUGH
    assert (home / "merge" / "adapter_model.safetensors").is_file()


def test_an_export_keeps_to_the_cap_or_is_not_written(home: Path, adapters: list[Path]) -> None:
    words: tuple[str | Path, ...] = ("export", adapters[0], "--to", "merged", "-o", "merged", "--memory")
    ran = pocketft(*words, "120MB")
    assert ran.code == 1 and "120 MB" in ran.errors[-1] and not ran.out
    assert "max_seq_length" not in ran.errors[-1]  # which is no setting of an export
    assert not (home / "merged").exists()
    ran = pocketft(*words, f"{ENOUGH}B")
    assert ran.code == 0 and ran.peak_bytes <= ENOUGH
    assert (home / "merged" / "model.safetensors").is_file()


def test_a_check_is_planned_inside_the_cap_or_refused(home: Path, adapters: list[Path]) -> None:
    text = home / "text.txt"
    text.write_text("The bellows leak, and the reeds are out of tune again. " * 20)
    check = ("merge", *adapters, "-o", "merge", "--check", text, "--force", "--json", "--memory")
    smallest = pocketft("merge", *adapters, "-o", "merge").peak_bytes
    ran = pocketft(*check, f"{smallest + 20 * MB}B")  # enough to merge, and to score only where torch comes with CUDA
    if ran.code == 0:
        assert ran.peak_bytes <= smallest + 20 * MB
    else:
        assert ran.code == 2 and "no plan fits" in ran.errors[-1] and not ran.out
    ran = pocketft(*check, f"{ENOUGH}B")
    assert ran.code == 0, ran.errors
    assert json.loads(ran.out)["check"]["base_loss"] > 0 and ran.peak_bytes <= ENOUGH
