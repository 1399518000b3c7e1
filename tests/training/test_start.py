"""Devices that begin with the same A: dealt out once, kept by every run that grew from it."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketft.adapters.folder import read_adapter
from pocketft.adapters.group import write_group
from pocketft.adapters.merge import merge_states
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.adapters.state import BaseIdentity
from pocketft.errors import UsageError
from pocketft.recipe import load_recipe
from pocketft.training import session
from pocketft.training.preparation import open_base
from pocketft.training.session import train
from pocketft.training.start import Start, read_start
from tests.training.conftest import World
from tests.training.test_session import quiet, request


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "group"
    base = open_base(str(world.base), "auto", quiet)
    recipe = load_recipe(
        None,
        [f"model.name={world.base}", "training.seed=5", "data.me=Ottilie", "data.column=body", "memory.max=1GB"],
    )
    write_group(folder, base.config, BaseIdentity(**base.to_json()), recipe)
    return folder


def factor_a(folder: Path) -> torch.Tensor:
    state = read_adapter(folder)
    return torch.cat([state.factors(name).a.flatten() for name in state.info.modules])


def test_the_dealt_out_recipe_names_no_person_and_no_place(world: World, start: Path) -> None:
    recipe = load_recipe(start / "recipe.yaml")
    assert recipe.data.me is None and recipe.data.column is None and recipe.memory.max is None
    assert recipe.model.name == world.base.name and str(world.base.parent) not in (start / "recipe.yaml").read_text()


def test_a_run_from_a_start_begins_with_its_a_and_names_the_group(world: World, start: Path, tmp_path: Path) -> None:
    frozen = request(world, tmp_path / "run", f"lora.init={start}", "lora.freeze_a=true", max_steps=2)
    train(frozen, quiet)
    group = json.loads((start / "pocketft.json").read_text())["group"]
    assert json.loads((tmp_path / "run" / "pocketft.json").read_text())["group"] == group
    assert torch.equal(factor_a(tmp_path / "run"), factor_a(start))  # frozen, so still the very same
    assert any(read_adapter(tmp_path / "run").factors(m).b.abs().max() > 0 for m in read_adapter(start).info.modules)


def test_the_start_is_let_go_once_it_is_copied(
    world: World, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def watched(*arguments: Any) -> Start:
        found = read_start(*arguments)
        read.extend(weakref.ref(tensor) for tensor in found.state.values())
        return found

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            alive.append(sum(tensor() is not None for tensor in read))

    monkeypatch.setattr(session, "read_start", watched)
    train(request(world, tmp_path / "run", f"lora.init={start}", max_steps=1), look)
    assert read and alive == [0]


def test_two_frozen_runs_merge_exactly_by_ffa(world: World, start: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        told = (f"lora.init={start}", "lora.freeze_a=true", f"training.seed={number}")
        train(request(world, tmp_path / str(number), *told, max_steps=2), quiet)
    states = [read_adapter(tmp_path / str(number)) for number in (1, 2)]
    merged = merge_states(states, MergeSettings(method="ffa", clip="none", weights=(1.0, 1.0)))
    for module in merged.info.modules:
        found = merged.factors(module)
        wanted = sum(f.scaling * f.b @ f.a for f in (state.factors(module) for state in states)) / 2
        assert torch.allclose(found.scaling * found.b @ found.a, wanted, atol=1e-6)


def test_without_freezing_a_is_trained_too_and_a_resumed_run_goes_on(world: World, start: Path, tmp_path: Path) -> None:
    told = (f"lora.init={start}",)
    train(request(world, tmp_path / "run", *told, max_steps=3), quiet)
    assert not torch.equal(factor_a(tmp_path / "run"), factor_a(start))
    train(request(world, tmp_path / "run", *told, max_steps=5, resume=True), quiet)
    assert json.loads((tmp_path / "run" / "pocketft.json").read_text())["steps"] == 5


@pytest.mark.parametrize(
    ("told", "said"), [("lora.r=4", "r is 8 there and 4 here"), ("lora.use_rslora=true", "use_rslora")]
)
def test_another_shape_of_adapter_is_refused(world: World, start: Path, tmp_path: Path, told: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(request(world, tmp_path / "run", f"lora.init={start}", told), quiet)
    assert not (tmp_path / "run").exists()


def test_another_base_and_a_folder_that_is_no_start_are_refused(world: World, start: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in start.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    info = json.loads((other / "pocketft.json").read_text())
    info["base"]["artifact_sha256"] = "f" * 64
    (other / "pocketft.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="artifact_sha256 is ffffffffffff"):
        train(request(world, tmp_path / "run", f"lora.init={other}"), quiet)
    del info["group"]
    (other / "pocketft.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="no common start"):
        train(request(world, tmp_path / "run", f"lora.init={other}"), quiet)
