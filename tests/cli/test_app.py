"""The program as a whole: which verbs there are, how fast it answers, what every failure looks like."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketft import __file__ as package_file
from pocketft import __version__
from pocketft.errors import CapTooSmall, Interrupted, MemoryCapError
from tests.cli.run_cli import Ran, Session

ROOT = Path(package_file).parent.parent
VERBS = (
    "train",
    "plan",
    "eval",
    "chat",
    "merge",
    "inspect",
    "export",
    "init-group",
    "models",
    "data",
    "recipes",
    "runs",
    "doctor",
    "demo",
)


def test_help_names_every_verb_and_bare_is_help(pocketft: Callable[..., Ran]) -> None:
    shown = pocketft("--help")
    assert shown.code == 0
    for verb in VERBS:
        assert f" {verb} " in shown.out
    assert pocketft().out.split() == shown.out.split()
    assert pocketft("-h").code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(pocketft: Callable[..., Ran], verb: str) -> None:
    shown = pocketft(verb, "--help")
    assert shown.code == 0
    assert "Usage" in shown.out


def test_version(pocketft: Callable[..., Ran]) -> None:
    assert pocketft("--version").out == f"pocketft {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pocketft.cli.app import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'peft', 'gguf', 'yaml') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
        (["train", "x", "--bogus"], "No such option: --bogus"),
        (["train", "x", "--max-steps", "0"], "--max-steps"),
        (["train", "x", "--device", "tpu"], "--device"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(pocketft: Callable[..., Ran], words: list[str], part: str) -> None:
    ran = pocketft(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ") and part in ran.err and "--help`)" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CapTooSmall("50 MB is too little; 300 MB would do"), 2, "error: 50 MB is too little; 300 MB would do"),
        (MemoryCapError("stopped"), 1, "error: stopped"),
        (Interrupted("saved; go on with --resume"), 130, "error: saved; go on with --resume"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (
            MemoryError(),
            1,
            "error: this machine has no more memory to give; close programs, or choose a smaller model or --memory",
        ),
        (OSError(28, "No space left", "/x"), 1, "error: the disk is full (/x); free some space and run again"),
        (ValueError("odd\nthing"), 1, "error: unexpected ValueError: odd thing (set POCKETFT_DEBUG=1 to see where)"),
    ],
)
def test_every_failure_is_one_line_and_its_code(
    pocketft: Callable[..., Ran], session: Session, notes: str, error: BaseException, code: int, line: str
) -> None:
    session.raises = error
    ran = pocketft("train", notes, "--json")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == line + "\n"


def test_debug_shows_where(
    pocketft: Callable[..., Ran], session: Session, notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETFT_DEBUG", "1")
    session.raises = ValueError("odd")
    ran = pocketft("train", notes)
    assert "Traceback" in ran.err and "run_cli.py" in ran.err
    assert ran.err.splitlines()[-1] == "error: unexpected ValueError: odd"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_failure_worth_a_word() -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "pocketft", "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert listing.stdout is not None and listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == ""
    listing.stderr.close()
    listing.wait()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unwind_and_give_130(number: signal.Signals) -> None:
    code = (
        "import signal, time\n"
        "from pocketft.cli.exits import exit_code_of\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests with &\n"
        "def work():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(30)\n"
        "    finally: print('cleaned', flush=True)\n"
        "raise SystemExit(exit_code_of(work))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (130, "cleaned\n", "error: interrupted\n")


def test_a_terminal_that_cannot_show_a_letter_gets_a_question_mark(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "pocketft", "train", "nötes"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert ran.returncode == 2
    assert "n?tes" in ran.stderr


def test_defaults_of_the_environment_leave_what_the_person_set(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pocketft.cli.environment import allow_hub_for, set_defaults\n"
        "set_defaults()\n"
        "print(os.environ['HF_HUB_OFFLINE'], os.environ['HF_HUB_DISABLE_TELEMETRY'])\n"
        "allow_hub_for('smollm2-135m'); print(os.environ.get('HF_HUB_OFFLINE'))\n"
        "allow_hub_for('hf:owner/name'); print(os.environ.get('HF_HUB_OFFLINE'))\n"
    )

    def seen(**changes: str) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | changes
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout.splitlines()

    assert seen() == ["1 1", "1", "None"]
    assert seen(HF_HUB_OFFLINE="1") == ["1 1", "1", "1"]
    assert seen(HF_HUB_OFFLINE="0", HF_HUB_DISABLE_TELEMETRY="0") == ["0 0", "0", "0"]
