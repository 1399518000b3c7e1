"""What `load_libraries` keeps out stays out through a whole step, and comes when it is asked for."""

from __future__ import annotations

import subprocess
import sys

_TRAIN = """
import sys, torch
import pocketft.training.session, pocketft.engine.model
from pocketft.training.optimizer import apply_step, make_optimizer
p = torch.nn.Parameter(torch.zeros(4, 4))
optimizer = make_optimizer([("a", p)], "adamw", 0.0)
p.grad = torch.ones(4, 4)
apply_step(optimizer, [("a", p)], 0.1, 1.0)
print(sorted({"sympy", "bitsandbytes", "torch._inductor", "torch.distributed.tensor"} & set(sys.modules)))
"""

_COMPILE = """
import pocketft.training.session, torch
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
import bitsandbytes
print(bitsandbytes.__name__)
"""

_AS_IT_WAS = """
import transformers.modeling_utils, torch
import pocketft.training.session
print(torch.distributed.is_available(), type(torch._dynamo).__name__)
"""

_ELSEWHERE = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch._dynamo" else find(name, package)
import pocketft.training.session
print("peft" in sys.modules)
"""


def _said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_training_loads_no_compiler_and_no_distributed_tensors() -> None:
    assert _said(_TRAIN) == ["[]"]


def test_the_compiler_and_the_quantizer_are_there_for_who_asks() -> None:
    assert _said(_COMPILE) == ["2.0", "bitsandbytes"]


def test_a_program_that_loaded_the_libraries_itself_keeps_them_whole() -> None:
    assert _said(_AS_IT_WAS) == ["True module"]


def test_a_torch_that_has_its_compiler_elsewhere_is_used_as_it_is() -> None:
    assert _said(_ELSEWHERE) == ["True"]
