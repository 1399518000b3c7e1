"""One run of the toy model through the real loop, run folder, checkpoints and log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from peft import LoraConfig

from pocketft.recipe import Recipe, load_recipe
from pocketft.training import loop
from pocketft.training.events import EventLog
from pocketft.training.interrupt import StopRequest
from pocketft.training.optimizer import make_optimizer
from pocketft.training.resume import checkpoint_to_resume, restore_run, run_identity
from pocketft.training.run_folder import RunFolder, RunInfo
from pocketft.training.state import TrainState
from pocketft.training.step_order import StepOrder
from tests.training.toy import RANK, ToyData, ToyModel, toy_data

BASE = {
    "name": "toy",
    "artifact_sha256": "a" * 64,
    "revision": None,
    "quantization": "f32",
    "architecture": "Toy",
    "tokenizer_sha256": "b" * 64,
    "licence": "none",
}
USUAL = (
    "training.epochs=2",
    "training.gradient_accumulation=2",
    "training.micro_batch=2",
    "training.warmup_steps=2",
    "training.learning_rate=0.02",
    "training.save_steps=4",
    "eval.steps=3",
    "eval.early_stopping_patience=0",
)


def toy_recipe(*overrides: str) -> Recipe:
    return load_recipe(None, [*USUAL, *overrides])


class ToyRun:
    """What `session.train` does for a real model."""

    def __init__(
        self,
        path: Path,
        *overrides: str,
        model: ToyModel | None = None,
        data: ToyData | None = None,
        base: dict[str, Any] = BASE,
        resume: bool = False,
        **limits: Any,
    ) -> None:
        self.model = model or ToyModel()
        self.events: list[dict[str, Any]] = []
        self.stop = StopRequest()
        self.folder = RunFolder(path)
        recipe, data = toy_recipe(*overrides), data or toy_data()
        identity = run_identity(recipe, base, "c" * 64)
        info = RunInfo(base=base, plan={"micro_batch": self.model.micro_batch})
        self.folder.check(resume=resume, force=False)
        checkpoint = checkpoint_to_resume(self.folder, identity, self.events.append) if resume else None
        if checkpoint is None:
            self.log = self.folder.start(info, recipe.to_yaml(), resume=resume)
        else:
            self.log = EventLog(self.folder.log)
        optimizer = make_optimizer(self.model.parameters(), recipe.training.optimizer, recipe.training.weight_decay)
        state = TrainState()
        if checkpoint is not None:
            state = restore_run(self.folder, checkpoint, self.model.parameters(), optimizer)
        rows_per_step = recipe.training.gradient_accumulation * 2
        self.loop = loop.Loop(
            model=self.model,
            optimizer=optimizer,
            data=data,  # type: ignore[arg-type]
            order=StepOrder(data.train.row_lengths, rows_per_step, recipe.training.epochs, recipe.training.seed),
            recipe=recipe,
            folder=self.folder,
            info=info,
            lora=LoraConfig(r=RANK, lora_alpha=8, target_modules=["layer"], task_type="CAUSAL_LM"),
            identity=identity,
            pad_id=0,
            cap_bytes=1 << 40,
            stop=self.stop,
            report=self.events.append,
            state=state,
            **limits,
        )

    def run(self) -> TrainState:
        with self.log as log:

            def report(event: dict[str, Any]) -> None:
                log.write(event)
                self.events.append(event)

            self.loop.report = report
            # a quarter of a second each time, with nothing to release
            with mock.patch.object(loop, "release_freed_memory"):
                return self.loop.run()


def told(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a log says, without what no two runs share: time and memory."""
    changing = ("tokens_per_s", "rss", "peak", "elapsed", "remaining")
    return [{key: value for key, value in event.items() if key not in changing} for event in events]
