"""The error tree: what the shell sees for each, and that a recipe's problems stay readable."""

from __future__ import annotations

import pytest

from pocketft import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.CapTooSmall, 2),
        (errors.DataError, 1),
        (errors.ModelError, 1),
        (errors.AdapterError, 1),
        (errors.CheckpointError, 1),
        (errors.StorageError, 1),
        (errors.MemoryCapError, 1),
        (errors.Interrupted, 130),
    ],
)
def test_exit_codes(kind: type[errors.PocketftError], code: int) -> None:
    assert kind("why").exit_code == code
    assert issubclass(kind, errors.PocketftError)


def test_a_recipe_error_lists_every_problem_below_its_file() -> None:
    error = errors.RecipeError(["a is wrong", "b is wrong"], where="mine.yaml")
    assert str(error) == "mine.yaml: 2 problems\n  - a is wrong\n  - b is wrong"
    assert error.exit_code == 2
    assert str(errors.RecipeError(["a is wrong"])).startswith("recipe: 1 problem\n")
