"""The held-out check of a merge, with a scorer whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pocketft.adapters.check import FoldedFactors, check_merge
from pocketft.adapters.folder import FolderAdapter
from pocketft.adapters.merge import merge_states
from pocketft.adapters.merge_files import merge_files
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.adapters.state import Factors, MemoryAdapter
from pocketft.errors import AdapterError, UsageError
from tests.adapters.build import SHAPES, adapter, changed, dense, distance, holding, write

TARGET = dense(adapter(42))


def score(ranks: Mapping[str, int], candidates: Iterable[FoldedFactors]) -> list[float]:
    """How far an update is from the one that the text asks for; the base alone scores 1."""
    losses = []
    for candidate in candidates:
        assert all(len(a) <= ranks[name] for name, (a, _) in candidate.items())
        updates: dict[str, Tensor] = {name: (b @ a).double() for name, (a, b) in candidate.items()}
        losses.append(distance(updates, TARGET))
    return losses


def near(seed: int, label: str, share: float = 1.0) -> MemoryAdapter:
    """The wanted update, or a share of it, with a little of something else."""
    wanted, own = adapter(42), adapter(seed)
    tensors = {
        name: Factors(torch.cat([f.a, o.a]), torch.cat([share * f.b, 0.2 * o.b], 1), 2.0)
        for (name, f), o in zip(wanted.tensors.items(), own.tensors.values(), strict=True)
    }
    return holding(tensors, label)


def test_base_merge_adapters_and_each_merge_without_one_are_scored() -> None:
    states = [near(1, "a"), near(2, "b"), near(3, "c")]
    merged = merge_states(states, MergeSettings())
    report = check_merge(states, merged, MergeSettings(), score)
    assert report.base == 1.0
    assert report.merge == pytest.approx(distance(dense(merged), TARGET), rel=1e-4)
    assert report.adapters == {s.info.label: pytest.approx(distance(dense(s), TARGET), rel=1e-4) for s in states}
    assert set(report.without) == {"a", "b", "c"}
    assert not report.worse_than_base and report.harmful is None


def test_the_adapter_that_hurts_is_named() -> None:
    states = [near(1, "a"), near(2, "b"), near(3, "c", share=-1.0)]
    report = check_merge(states, merge_states(states, MergeSettings()), MergeSettings(), score)
    assert report.harmful == "c"
    assert report.to_json()["harmful"] == "c"


def test_without_one_of_two_is_the_other_as_it_is() -> None:
    states = [near(1, "a"), near(2, "b", share=-1.0)]
    settings = MergeSettings(weights=(1.0, 3.0))
    report = check_merge(states, merge_states(states, settings), settings, score)
    assert report.without["b"] == pytest.approx(report.adapters["a"])
    assert report.harmful == "b"


def test_robust_rules_and_weights_hold_for_the_merges_without_one() -> None:
    states = [near(i, str(i)) for i in range(4)]
    settings = MergeSettings(robust="multikrum", weights=(1.0, 0.0, 2.0, 1.0))
    report = check_merge(states, merge_states(states, settings), settings, score)
    assert len(report.without) == 4


def _scorer(adapters: Sequence[FolderAdapter]):  # type: ignore[no-untyped-def]
    return score


def test_a_merge_worse_than_the_base_is_not_written_unless_forced(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / name, near(i, name, share)) for i, (name, share) in enumerate({"a": 1, "b": -3}.items())
    ]
    settings = MergeSettings(weights=(1.0, 2.0))
    with pytest.raises(AdapterError, match=r"worse than the base.*b hurts it most"):
        merge_files(folders, tmp_path / "m", settings, score=_scorer)
    assert not (tmp_path / "m").exists()
    said: list[str] = []
    outcome = merge_files(folders, tmp_path / "m", settings, score=_scorer, force=True, notice=said.append)
    assert (tmp_path / "m" / "adapter_model.safetensors").exists()
    assert any("worse than the base" in line for line in said)
    assert outcome.to_json()["check"]["worse_than_base"] is True


def test_a_loss_that_is_no_number_is_worse_than_any() -> None:
    states = [near(1, "a"), near(2, "b")]
    merged = merge_states(states, MergeSettings())

    def broken(ranks: Mapping[str, int], candidates: Iterable[FoldedFactors]) -> list[float]:
        return [math.nan if index == 1 else 1.0 for index, _ in enumerate(candidates)]

    report = check_merge(states, merged, MergeSettings(), broken)
    assert report.worse_than_base and report.to_json()["merge_loss"] is None


def test_what_the_scorer_cannot_load_is_refused_first() -> None:
    name = "base_model.model.score.weight"
    state = replace(changed(near(1, "a"), extras={name: (2,)}), extra_tensors={name: torch.zeros(2)})
    with pytest.raises(UsageError, match="also changes"):
        check_merge([state], merge_states([state], MergeSettings()), MergeSettings(), score)
    assert set(SHAPES) == set(state.info.modules)
