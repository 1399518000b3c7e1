"""One training run from request to result: the one place where recipe, text, model, plan and loop meet.

Knows the order in which they are needed, and nothing of how any of them works.
"""

from __future__ import annotations

import copy
import platform
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pocketft
from pocketft.errors import MemoryCapError, UsageError
from pocketft.memory.guard import Guard, hard_limit
from pocketft.memory.meter import peak_rss_bytes
from pocketft.memory.planner import Choice
from pocketft.memory.size import format_size
from pocketft.recipe import Recipe
from pocketft.training.data_settings import data_settings
from pocketft.training.evaluate import EvalResult, evaluate
from pocketft.training.events import Event, EventLog, Reporter, notice
from pocketft.training.interrupt import StopRequest, stop_on_signals
from pocketft.training.loop import Loop
from pocketft.training.optimizer import make_optimizer
from pocketft.training.preparation import (
    Base,
    build_planned,
    cap_bytes,
    compare_plans,
    earlier_plan,
    find_device,
    lora_config,
    open_base,
    prepare_text,
    rows_per_step,
    workload,
)
from pocketft.training.resume import checkpoint_to_resume, restore_run, run_identity
from pocketft.training.run_folder import RunFolder, RunInfo
from pocketft.training.start import Start, read_start
from pocketft.training.state import TrainState
from pocketft.training.step_order import StepOrder

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import LoraConfig

    from pocketft.data.dataset import PreparedData
    from pocketft.engine.model import EngineModel
    from pocketft.memory.plan import Plan
    from pocketft.training.checkpoint import Checkpoint

__all__ = ["EvalResult", "TrainRequest", "TrainResult", "evaluate", "plan", "train"]

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")  # versions that a result may depend on


@dataclass(frozen=True)
class TrainRequest:
    data: tuple[Path, ...]
    recipe: Recipe
    output: Path
    resume: bool = False
    force: bool = False
    max_steps: int | None = None
    max_time_s: float | None = None
    device: str = "auto"
    among: Callable[[Plan], bool] | None = None  # which plans may be chosen, for who compares them


@dataclass(frozen=True)
class TrainResult:
    """The object of `train --json`. `tokens` and `steps` are the run's, from its first start."""

    loss: float | None
    eval_loss: float | None
    base_eval_loss: float | None
    tokens: int
    steps: int
    tokens_per_s: float
    peak_bytes: int
    predicted_peak_bytes: int
    cap_bytes: int
    adapter: str


@dataclass(frozen=True)
class _Prepared:
    """All that is known before a weight is read."""

    base: Base
    data: PreparedData
    order: StepOrder
    lora: LoraConfig
    start: Start | None
    identity: dict[str, Any]
    checkpoint: Checkpoint | None
    plan: Plan
    choice: Choice | None  # None where a run that is resumed keeps its plan


def plan(request: TrainRequest, report: Reporter) -> Choice:
    """How the run would be trained, what that would cost, and what else there is. Leaves nothing but what base and text
    were made into in the cache; reads no weight.
    """
    prepared = _prepare(request, report)
    return prepared.choice or Choice(prepared.plan, (), None)


def train(request: TrainRequest, report: Reporter) -> TrainResult:
    """Train as requested; the adapter is then in `request.output`.

    Raises Interrupted after SIGINT or SIGTERM and MemoryCapError where memory does not suffice; from the first step on,
    these and other PocketftErrors of the loop come with a checkpoint saved.
    """
    started = time.monotonic()
    with stop_on_signals() as stop:
        prepared = _prepare(request, report)
        with hard_limit(prepared.plan.cap_bytes):
            return _run(request, prepared, started, stop, report)


def _prepare(request: TrainRequest, report: Reporter) -> _Prepared:
    recipe, folder, device = request.recipe, RunFolder(request.output), find_device(request.device)
    folder.check(resume=request.resume, force=request.force)
    cap = cap_bytes(recipe)
    base = open_base(recipe.model.name, recipe.model.quantization, report, cap)
    data = prepare_text(request.data, base, data_settings(recipe), report, cap)
    lora = lora_config(recipe)
    start = read_start(Path(recipe.lora.init), lora, base.to_json()) if recipe.lora.init is not None else None
    identity = run_identity(recipe, base.to_json(), data.key, None if start is None else start.group)
    checkpoint = checkpoint_to_resume(folder, identity, report) if request.resume else None
    order = StepOrder(data.train.row_lengths, rows_per_step(recipe), recipe.training.epochs, recipe.training.seed)
    steps = order.steps if request.max_steps is None else min(order.steps, request.max_steps)
    _mention_short_run(recipe, order.steps, report)
    chosen = earlier_plan(checkpoint.plan, recipe, cap) if checkpoint is not None else None
    choice = None
    if chosen is None:
        work = workload(recipe, data, steps, order.steps)
        choice = compare_plans(base, copy.deepcopy(lora), work, cap, device, request.among)
        chosen = choice.plan
        if checkpoint is not None:
            notice(
                report,
                "the plan of before does not serve this memory cap or this version, so it is made anew: losses may "
                "differ in their last digits",
            )
    report({"event": "plan", **chosen.to_json()})
    return _Prepared(base, data, order, lora, start, identity, checkpoint, chosen, choice)


def _mention_short_run(recipe: Recipe, steps: int, report: Reporter) -> None:
    warm_up = recipe.training.warmup_steps
    if recipe.training.learning_rate and steps < 3 * warm_up:
        notice(
            report,
            f"only {steps} steps, of which the learning rate needs {warm_up} to rise; to learn more from a short text, "
            f"try --set training.epochs={recipe.training.epochs * 4} --set training.warmup_steps={max(1, steps // 3)}",
        )


def _run(
    request: TrainRequest,
    prepared: _Prepared,
    started: float,
    stop: StopRequest,
    report: Reporter,
) -> TrainResult:
    recipe, base, chosen = request.recipe, prepared.base, prepared.plan
    model, planned = build_planned(base, prepared.lora, chosen, find_device(request.device), recipe.training.seed)
    guard = Guard(chosen.cap_bytes)
    folder, start = RunFolder(request.output), prepared.start
    group = None if start is None else start.group
    info = RunInfo(base=base.to_json(), plan=chosen.to_json(), versions=_versions(), group=group)
    with ExitStack() as stack:
        stack.callback(model.close)
        _begin(model, start, freeze_a=recipe.lora.freeze_a)
        optimizer = make_optimizer(planned.parameters(), recipe.training.optimizer, recipe.training.weight_decay)
        if prepared.checkpoint is None:
            resolved = _resolved(recipe, base).to_yaml()
            log = stack.enter_context(folder.start(info, resolved, resume=request.resume, force=request.force))
            state = TrainState()
        else:
            log = stack.enter_context(EventLog(folder.log))
            state = restore_run(folder, prepared.checkpoint, planned.parameters(), optimizer)

        def tell(event: Event) -> None:
            log.write(event)
            report(event)

        planned.report = tell
        log.write({"event": "plan", **chosen.to_json()})
        loop = Loop(
            model=planned,
            optimizer=optimizer,
            data=prepared.data,
            order=prepared.order,
            recipe=recipe,
            folder=folder,
            info=info,
            lora=prepared.lora,
            identity=prepared.identity,
            pad_id=base.pad_id,
            cap_bytes=chosen.cap_bytes,
            stop=stop,
            report=tell,
            state=state,
            max_steps=request.max_steps,
            deadline=None if request.max_time_s is None else started + request.max_time_s,
        )
        state = loop.run()
        result = _result(state, loop.speed.tokens_per_s, chosen, str(request.output))
        log.write({"event": "done", **asdict(replace(result, adapter="."))})  # the log may be shared: no path
        report({"event": "done", **asdict(result)})
    _check_cap(guard, request.output)
    return result


def _check_cap(guard: Guard, output: Path) -> None:
    """The loop looks at the border of every step; what was evaluated and written after the last one is looked at here.
    A crossing is never passed in silence, though the run is whole.
    """
    if guard.is_crossed:
        raise MemoryCapError(
            f"the adapter in {output} is finished, but {format_size(peak_rss_bytes())} were in use at its end, more "
            f"than the cap of {format_size(guard.cap_bytes)}; give the next run a larger --memory"
        )


def _begin(model: EngineModel, start: Start | None, *, freeze_a: bool) -> None:
    """The adapter's first values, and which of them are to stay."""
    if start is not None:
        try:
            model.load_adapter_state(start.state)
        except ValueError as error:
            raise UsageError(f"lora.init: {error}; train by the recipe in its own folder") from error
        start.state.clear()  # copied: kept, it would be the adapter once more for the whole run
    if freeze_a:
        for name, parameter in model.lora_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)


def _result(state: TrainState, tokens_per_s: float, chosen: Plan, adapter: str) -> TrainResult:
    return TrainResult(
        loss=state.loss,
        eval_loss=state.best_eval_loss,
        base_eval_loss=state.base_eval_loss,
        tokens=state.tokens,
        steps=state.step,
        tokens_per_s=round(tokens_per_s, 2),
        peak_bytes=peak_rss_bytes(),
        predicted_peak_bytes=chosen.predicted_peak_bytes,
        cap_bytes=chosen.cap_bytes,
        adapter=adapter,
    )


def _resolved(recipe: Recipe, base: Base) -> Recipe:
    """With the model's name as it is found from everywhere: a relative path is made absolute. So is the start's."""
    model = recipe.model.model_copy(update={"name": base.model.name})
    init = recipe.lora.init and str(Path(recipe.lora.init).resolve())
    return recipe.model_copy(update={"model": model, "lora": recipe.lora.model_copy(update={"init": init})})


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in _PACKAGES}
    return {"pocketft": pocketft.__version__, "python": platform.python_version(), **packages}
