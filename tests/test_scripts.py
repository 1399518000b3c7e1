"""scripts/demo and scripts/test on machines that lack something: a word about it, and nothing half made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ("scripts/demo", "scripts/test", "scripts/bench", "scripts/environment.sh", ".ci/run")
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="shell scripts")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder with a space, and a PATH with the usual tools and a `python3` of the test's making."""
    folder = tmp_path / "my checkout"
    for name in (*SCRIPTS, "constraints.txt", "pyproject.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "ls", "rm", "touch", "tr"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    return folder


def run(checkout: Path, script: str, python: str) -> subprocess.CompletedProcess[str]:
    tools = checkout.parent / "bin"
    (tools / "python3").write_text(f"#!{tools}/bash\n{python}\n")
    (tools / "python3").chmod(0o755)
    return subprocess.run(
        [str(tools / "bash"), str(checkout / script)],
        capture_output=True,
        text=True,
        cwd=checkout.parent,
        env={"PATH": str(tools)},
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    if not script.endswith(".sh"):
        assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", ".ci/run"])
def test_a_python_that_is_too_old_is_named(checkout: Path, script: str) -> None:
    ran = run(checkout, script, 'if [ "$1" = --version ]; then echo "Python 3.8.1"; else exit 1; fi')
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: no Python 3.10 or newer found (python3 is Python 3.8.1)")
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_says_what_to_install(checkout: Path) -> None:
    ran = run(
        checkout, "scripts/test", 'case "$2" in *ensurepip*) exit 1;; *print*) echo "3.11.2 /usr/bin/python3";; esac'
    )
    assert ran.returncode == 1
    assert "python3-venv" in ran.stderr
    assert not (checkout / ".venv").exists()


def test_a_folder_in_the_way_is_not_removed(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine").touch()
    ran = run(checkout, "scripts/demo", 'case "$2" in *print*) echo "3.11.2 /usr/bin/python3";; esac')
    assert ran.returncode == 1
    assert "is in the way" in ran.stderr
    assert (checkout / ".venv" / "mine").exists()


def test_an_install_that_fails_is_not_taken_for_done(checkout: Path) -> None:
    fake = (
        'case "$2" in\n'
        '  *print*) echo "3.11.2 /usr/bin/python3";;\n'
        "  venv)\n"
        f'    {shutil.which("mkdir")} -p "$3/bin"; : > "$3/pyvenv.cfg"\n'
        f'    {shutil.which("cp")} "$0" "$3/bin/python";;\n'
        '  pip) echo "no network" >&2; exit 3;;\n'
        "esac"
    )
    for _ in range(2):
        ran = run(checkout, "scripts/test", fake)
        assert ran.returncode == 1
        assert "no network" in ran.stderr and "could not install torch" in ran.stderr
    assert not list((checkout / ".venv").glob(".pocketft-*"))


def test_a_mix_without_a_folder_is_bad_usage() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "scripts/data_bench.py"), "--mix", "1"], capture_output=True, text=True
    )
    assert ran.returncode == 2 and "name it with --folder" in ran.stderr
