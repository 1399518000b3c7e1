"""The house has floors, and an import only ever goes down."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pocketft"

# Higher floors may import lower ones. Rooms on one floor know nothing of each other, but for what BESIDE allows.
FLOOR = {
    "__main__": 6,
    "cli": 5,
    "chat": 4,
    "training": 3,
    "adapters": 3,
    "models": 2,
    "child": 2,
    "libraries": 0,
    "data": 2,
    "memory": 2,
    "recipe": 2,
    "recipe_text": 2,
    "samples": 2,
    "engine": 1,
    "files": 0,
    "errors": 0,
}
BESIDE = {
    ("recipe", "recipe_text"),
    ("recipe", "memory"),
    ("libraries", "memory"),  # what importing has touched is given back at once
    ("files", "errors"),
    ("models", "child"),
    ("data", "child"),
    ("child", "memory"),
}

# What `pocketft --help` must not wait for.
HEAVY = {
    "torch", "transformers", "peft", "bitsandbytes", "accelerate", "gguf", "safetensors", "tokenizers",
    "huggingface_hub", "numpy",
}  # fmt: skip
ENGINE_MAY_IMPORT = {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, at_module_level: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, those for type checkers alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if at_module_level and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are written in full"
                yield child.module or ""
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            else:
                yield from walk(child)

    yield from walk(tree)


def rooms_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name in imports(path) if name.startswith("pocketft.")]
    return {names[1] for names in parts if names[1] in FLOOR or (PACKAGE / names[1]).exists()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert rooms_imported(path) == set()
        return
    assert here in FLOOR, f"{here} has no floor yet: give it one in this file and in docs/design.md"
    for other in rooms_imported(path) - {here}:
        assert FLOOR[here] > FLOOR[other] or (here, other) in BESIDE, f"{here} may not import {other}"


@pytest.mark.parametrize("path", [f for f in FILES if room(f) == "engine"], ids=lambda path: path.name)
def test_the_engine_stands_on_the_ground(path: Path) -> None:
    assert rooms_imported(path) <= {"engine", "errors", "files"}
    outside = {name.split(".")[0] for name in imports(path)} - {"pocketft"} - set(sys.stdlib_module_names)
    assert outside <= ENGINE_MAY_IMPORT


@pytest.mark.parametrize(
    "path",
    [
        f
        for f in FILES
        if room(f) in ("cli", "recipe", "recipe_text", "errors", "files") or f.name in ("size.py", "meter.py")
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_the_command_line_starts_without_heavy_imports(path: Path) -> None:
    names = {name.split(".")[0] for name in imports(path, at_module_level=True)}
    assert not names & HEAVY
    if room(path) == "cli":
        # rooms below are imported where they are used, but for those that cost nothing
        assert rooms_at_module_level(path) <= {"cli", "errors", "files", "memory"}


def rooms_at_module_level(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path, at_module_level=True) if name.startswith("pocketft.")]
    return {parts[1] for parts in names if (PACKAGE / parts[1]).exists() or (PACKAGE / f"{parts[1]}.py").exists()}


def test_aggregation_is_pure_mathematics_on_tensors() -> None:
    path = PACKAGE / "adapters" / "aggregate.py"
    assert rooms_imported(path) <= {"adapters", "errors"}
    at_module_level = {name.split(".")[0] for name in imports(path, at_module_level=True)}
    assert at_module_level - {"pocketft"} - set(sys.stdlib_module_names) <= {"torch"}
