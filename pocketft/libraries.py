"""Loads transformers and PEFT without the parts that one process which never compiles has no use for.

As they come, importing them brings in torch's compiler (torch._dynamo, with sympy and _inductor), distributed tensors
and bitsandbytes: 115 MB that stay resident for the whole run, and half the seconds of a start. Three things keep them
out, none of which can make a library fail:

    torch.distributed.is_available()   says no, as it does in builds of torch without it, which both libraries support
    torch._dynamo                      is loaded late: what marks functions marks nothing, and asking for anything else
                                       runs the module
    bitsandbytes                       is missing while PEFT looks for it: our layers are none of its layers

A program that wants all of them imports transformers before it imports `pocketft.training`: then nothing is changed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from pocketft.memory.allocator import release_code

_COMPILER = "torch._dynamo"
_QUANTIZER = "bitsandbytes"

# Decorators and marks: without a compiler they mean nothing, and give back what they are given.
_MARKS = frozenset(
    (
        "allow_in_graph",
        "assume_constant_result",
        "disable",
        "disallow_in_graph",
        "forbid_in_graph",
        "graph_break",
        "mark_dynamic",
        "mark_static",
        "mark_static_address",
    )
)


def load_libraries() -> None:
    """Import what training, planning, evaluation and chat stand on. Later calls, and calls in a process that has
    imported them already, change nothing."""
    if "transformers.modeling_utils" in sys.modules or "peft" in sys.modules:
        return
    import torch
    import torch.distributed

    release_code()  # a build for CUDA touches 150 MB of it, before anything else is loaded
    compiler = _late_compiler()
    torch.distributed.is_available = lambda: False
    hide = _QUANTIZER not in sys.modules
    if hide:
        sys.modules[_QUANTIZER] = None  # type: ignore[assignment]  # makes its import raise ImportError
    try:
        importlib.import_module("transformers.modeling_utils")
        importlib.import_module("peft")
        importlib.import_module("peft.import_utils").is_bnb_available()  # PEFT remembers the answer
    finally:
        if hide:
            del sys.modules[_QUANTIZER]
        if isinstance(compiler, _LateCompiler):
            del compiler.__path__  # whoever imports a module below it from now on means to compile


class _LateCompiler(ModuleType):
    """The module itself, its code not yet run."""

    def __getattr__(self, name: str) -> Any:
        if name in _MARKS:
            return _as_it_is
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = spec.submodule_search_locations or []
        spec.loader.exec_module(self)
        return getattr(self, name)


def _late_compiler() -> ModuleType | None:
    """None for a torch that has it elsewhere, or not at all: then the libraries import what they find."""
    import torch

    if _COMPILER not in sys.modules:
        spec = importlib.util.find_spec(_COMPILER)
        if spec is None:
            return None
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _LateCompiler
        sys.modules[_COMPILER] = torch._dynamo = module
    return sys.modules[_COMPILER]


def _as_it_is(marked: Any = None, *arguments: Any, **options: Any) -> Any:
    """For `@mark` and for `@mark(option=...)`."""
    return _as_it_is if marked is None else marked
