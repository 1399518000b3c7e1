"""A plan for scoring must count all that scoring will take, an adapter in memory included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from pocketft.memory import guard
from pocketft.recipe import load_recipe
from pocketft.training import leaks, scoring
from pocketft.training.evaluate import evaluate
from pocketft.training.leaks import find_leaks
from pocketft.training.scoring import Scorer, open_scorer
from pocketft.training.session import train
from tests.training.conftest import World
from tests.training.test_session import CAP, quiet, request


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("scoring") / "run"
    train(request(world, output, max_steps=2), quiet)
    return output


def test_the_plan_counts_as_many_rows_as_are_scored_together(world: World, tmp_path: Path) -> None:
    """The text that the longest row is of has few others, the other text many."""
    few = tmp_path / "few.txt"
    few.write_text("a" * 1000)
    recipe = load_recipe(
        None, [f"model.name={world.base}", "data.max_seq_length=160", "training.gradient_accumulation=16"]
    )
    many = {"few": (few,), "many": (world.text, world.unseen)}
    planned: list[Any] = []
    choose = scoring.choose_plan

    def chosen(base: Any, lora: Any, work: Any, *rest: Any) -> Any:
        planned.append(work)
        return choose(base, lora, work, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "choose_plan", chosen)
        with open_scorer(recipe, {"model.layers.0.self_attn.q_proj": 2}, many, CAP, quiet) as scorer:
            rows = {name: len(text.train) for name, text in scorer.texts.items()}
            calls: list[int] = []
            score = scorer.planned.eval_loss
            scorer.planned.eval_loss = lambda batches: (  # type: ignore[method-assign]
                calls.append(sum(len(batch.input_ids) for batch in batches)) or score(batches)  # type: ignore[func-returns-value]
            )
            scorer.loss("many")
    assert rows["few"] < rows["many"]
    assert planned[0].rows_per_step == max(calls) == min(16, rows["many"])


def test_an_adapter_is_loaded_without_a_copy_of_the_one_before() -> None:
    given: dict[str, Tensor] = {}

    class Model:  # it cannot tell the values it has
        def lora_parameters(self) -> list[tuple[str, Parameter]]:
            sides = {"A": (4, 6), "B": (5, 4)}
            return [
                (f"base_model.model.q.lora_{side}.default.weight", Parameter(torch.ones(shape)))
                for side, shape in sides.items()
            ]

        def load_adapter_state(self, state: dict[str, Tensor]) -> None:
            given.update(state)

    scorer = Scorer(Model(), None, {}, 1, 0)  # type: ignore[arg-type]
    scorer.load({"q": (torch.full((2, 6), 3.0), torch.full((5, 2), 5.0))})
    assert set(given) == {"base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"}
    assert given["base_model.model.q.lora_A.weight"].sum(1).tolist() == [18, 18, 0, 0]
    assert given["base_model.model.q.lora_B.weight"].sum(0).tolist() == [25, 25, 0, 0]


def test_evaluating_tells_how_far_it_is(world: World, run: Path) -> None:
    events: list[dict[str, Any]] = []
    evaluate(run, (world.unseen,), events.append)
    assert [event for event in events if event.get("task") == "held-out loss"]


def test_a_plan_that_shrinks_while_leaks_are_looked_for_is_told(
    world: World, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[dict[str, Any]] = []
    ask = leaks.ask

    def asked(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(guard.Guard, "is_tight", lambda *_: True)
        return ask(*arguments, **options)

    monkeypatch.setattr(leaks, "ask", asked)
    find_leaks(run, (world.text,), events.append)
    assert [event["action"] for event in events if event["event"] == "memory"]
