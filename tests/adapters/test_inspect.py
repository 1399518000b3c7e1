"""What inspect says of an adapter, against the dense updates."""

from __future__ import annotations

import json
import math

import pytest
import torch

from pocketft.adapters.inspect import compare, inspect_adapter
from pocketft.adapters.state import Factors
from tests.adapters.build import SHAPES, adapter, changed, dense, holding


def test_norms_and_spectra_are_those_of_the_dense_updates() -> None:
    state = adapter(1, rank=5)
    report = inspect_adapter(state)
    updates = dense(state)
    for module in report.modules:
        assert module.norm == pytest.approx(float(updates[module.name].norm()), rel=1e-5)
        values = torch.linalg.svdvals(updates[module.name])[:5] ** 2
        shares = values / values.sum()
        assert module.effective_rank == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-4)
    assert report.norm == pytest.approx(math.sqrt(sum(float(u.norm()) ** 2 for u in updates.values())), rel=1e-5)
    assert sum(report.spectrum) == pytest.approx(1) and list(report.spectrum) == sorted(report.spectrum, reverse=True)
    assert set(report.layer_norms) == {0, 1}


def test_an_update_of_one_direction_has_effective_rank_one() -> None:
    a, b = torch.zeros(4, 10), torch.zeros(8, 4)
    a[2], b[:, 2] = 1.0, 3.0
    report = inspect_adapter(holding({"model.layers.0.q_proj": Factors(a, b, 1.0)}))
    assert report.effective_rank == pytest.approx(1)
    assert report.spectrum[0] == pytest.approx(1)


def test_an_untrained_or_broken_adapter_can_still_be_looked_at() -> None:
    untrained = holding({"model.layers.0.q_proj": Factors(torch.ones(2, 4), torch.zeros(3, 2), 1.0)})
    assert inspect_adapter(untrained).norm == 0
    broken = adapter(1)
    broken.tensors[next(iter(SHAPES))].a[0, 0] = float("nan")
    report = inspect_adapter(broken)
    assert any("NaN" in problem for problem in report.problems)
    json.dumps(report.to_json(), allow_nan=False)
    assert compare([broken, adapter(2)]).cosines is None


def test_the_comparison_is_that_of_the_dense_updates() -> None:
    states = [adapter(i, rank=2 + i, scaling=1.0 + i) for i in range(3)]
    comparison = compare(states)
    flat = torch.stack([torch.cat([u.flatten() for u in dense(state).values()]) for state in states])
    wanted = torch.nn.functional.normalize(flat) @ torch.nn.functional.normalize(flat).T
    assert comparison.cosines is not None
    assert torch.allclose(torch.tensor(comparison.cosines, dtype=torch.float64), wanted, atol=1e-6)
    assert comparison.can_merge


def test_adapters_that_cannot_be_merged_say_why() -> None:
    wide = adapter(2, shapes={next(iter(SHAPES)): (24, 40)}, label="wide")
    comparison = compare([adapter(1), wide])
    assert not comparison.can_merge and comparison.cosines is None
    assert any("24 → 40" in reason for reason in comparison.reasons)
    variant = changed(adapter(3, label="dora"), problems=("use_dora is set",))
    assert compare([adapter(1), variant]).reasons == ("dora: use_dora is set",)


def test_provenance_shows_what_was_recorded_and_no_plan() -> None:
    parents = [{"name": "a", "sha256": "x", "weight": 0.5, "norm": 3}, "nonsense"]
    state = adapter(1, tokens=5, plan={"cap_bytes": 1}, parents=parents, metrics={"eval_loss": 2.0})
    made = inspect_adapter(state).to_json()["provenance"]
    assert made["tokens"] == 5 and made["metrics"] == {"eval_loss": 2.0}
    assert made["parents"] == [{"name": "a", "sha256": "x", "weight": 0.5}]
    assert "plan" not in made
