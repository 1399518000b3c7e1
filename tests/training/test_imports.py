"""What a run has in memory besides its model: not the libraries that only planning or a compiler needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import World

_RUN = """
import sys
from pathlib import Path
from pocketft.recipe import load_recipe
from pocketft.training.session import TrainRequest, train
base, text, output = sys.argv[1:]
recipe = load_recipe(None, [f"model.name={base}", "data.max_seq_length=64", "data.val_split=0.2"])
train(TrainRequest((Path(text),), recipe, Path(output), max_steps=2, device="cpu"), lambda event: None)
print(sorted({"sympy", "bitsandbytes", "torch._inductor", "torch._dynamo.utils"} & set(sys.modules)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere plans are made in the process itself")
def test_a_whole_run_loads_neither_compiler_nor_symbols(world: World, tmp_path: Path) -> None:
    arguments = [str(world.base), str(world.text), str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
