"""The training loop: step, log, evaluate, save — and stop, for whichever reason, with nothing lost.

Knows the order of things. How a step is computed is the model's business, what a checkpoint looks like that of
`checkpoint.py`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from pocketft.data.dataset import PreparedData
from pocketft.errors import Interrupted, PocketftError
from pocketft.memory.allocator import release_freed_memory
from pocketft.memory.guard import OUT_OF_MEMORY
from pocketft.memory.meter import peak_rss_bytes, rss_bytes
from pocketft.recipe import Recipe
from pocketft.training.checkpoint import save_checkpoint
from pocketft.training.events import Reporter, notice
from pocketft.training.failure import is_foreseen, with_advice, without_traceback
from pocketft.training.held_out import held_out_loss, rows_to_score
from pocketft.training.interrupt import StopRequest
from pocketft.training.optimizer import apply_step, learning_rate
from pocketft.training.run_folder import RunFolder, RunInfo
from pocketft.training.speed import Speed
from pocketft.training.state import TrainState
from pocketft.training.step_order import StepOrder, micro_batch_rows, step_seed
from pocketft.training.trainable import Trainable

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass
class Loop:
    """One run on its way. `state` is how far it has come; `run` takes it to its end."""

    model: Trainable
    optimizer: torch.optim.Optimizer
    data: PreparedData
    order: StepOrder
    recipe: Recipe
    folder: RunFolder
    info: RunInfo
    lora: LoraConfig
    identity: dict[str, Any]  # what the run is made of, for checkpoints
    pad_id: int
    cap_bytes: int
    stop: StopRequest
    report: Reporter
    state: TrainState = field(default_factory=TrainState)
    max_steps: int | None = None
    deadline: float | None = None  # on time.monotonic
    speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        self._begun = time.monotonic() - self.state.elapsed_s
        self._saved = (self.state.step, self.state.evaluated_step) if self.state.step else None
        self._eval_s = 0.0
        self._updating = False  # while it is, parameters and optimizer are of no one step and must not be saved
        self._scored = rows_to_score(len(self.data.val), self.order.rows_per_step, self.recipe.eval.steps)

    def run(self) -> TrainState:
        """Train to the end, to a limit, or until it no longer pays; the best adapter is then in the run folder.

        Raises Interrupted after a signal, MemoryCapError where memory does not suffice and other PocketftErrors, all
        with the last whole step saved, unless there is none yet or the run has diverged.
        """
        self.stop.patient = True
        try:
            self._finish(self._train())
            return self.state
        except (PocketftError, *OUT_OF_MEMORY) as error:
            if self._updating or not is_foreseen(error):
                raise
            failure = without_traceback(error)
        raise self._saved_after(failure)  # out here, where the tensors of the step that failed are gone

    def _train(self) -> str:
        """Steps, evaluations and checkpoints in turn, until there is a reason to end, which is returned."""
        every = self.recipe.training.save_steps
        while True:
            ending = self._ending()
            if self._evaluation_due():
                self._evaluate()
                ending = ending or self._ending()
                release_freed_memory()  # its tensors are of other sizes than a step's: they would lie between those
            if self.stop.requested or ending or (self.state.step and self.state.step % every == 0):
                self._save()
            if self.stop.requested:
                raise self._interrupted()
            if ending:
                return ending
            self._step()

    def _step(self) -> None:
        """One optimizer step. The state moves on only when all of it is done."""
        state, training = self.state, self.recipe.training
        began = time.perf_counter()
        rows = self.order.rows(state.step)
        groups = micro_batch_rows(rows, self.model.micro_batch)
        batches = [self.data.train.batch(group, self.pad_id) for group in groups]
        loss = self.model.train_step(batches, step_seed(training.seed, state.step))
        rate = learning_rate(
            state.step,
            self.order.steps,
            peak=training.learning_rate,
            warmup_steps=training.warmup_steps,
            schedule=training.schedule,
        )
        self._updating = True
        norm = apply_step(self.optimizer, self.model.parameters(), rate, training.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise PocketftError(
                f"training diverged at step {state.step + 1}: loss {loss}, gradient norm {norm}; "
                f"start again with a lower rate than --set training.learning_rate={training.learning_rate}"
            )
        tokens, seconds = self.order.tokens(rows), time.perf_counter() - began
        self.speed.add(tokens, seconds)
        self.state = replace(
            state,
            step=state.step + 1,
            tokens=state.tokens + tokens,
            examples=state.examples + len(rows),
            loss=loss,
            elapsed_s=time.monotonic() - self._begun,
        )
        self._updating = False
        self._report_step(rate, norm, tokens / seconds)
        self.model.check_memory()

    def _report_step(self, rate: float, norm: float, tokens_per_s: float) -> None:
        state = self.state
        last = self._last_step
        remaining = (last - state.step) * (state.tokens / state.step) / self.speed.tokens_per_s
        if self.deadline is not None:
            remaining = min(remaining, max(0.0, self.deadline - time.monotonic()))
        self.report(
            {
                "event": "step",
                "step": state.step,
                "steps": last,
                "epoch": round(self.order.epochs_done(state.step), 4),
                "loss": state.loss,
                "lr": rate,
                "grad_norm": norm,
                "tokens": state.tokens,
                "tokens_per_s": round(tokens_per_s, 2),
                "rss": rss_bytes(),
                "peak": peak_rss_bytes(),
                "cap": self.cap_bytes,
                "elapsed": round(state.elapsed_s, 3),
                "remaining": round(remaining, 1),
            }
        )

    @property
    def _last_step(self) -> int:
        return self.order.steps if self.max_steps is None else min(self.order.steps, self.max_steps)

    def _ending(self) -> str | None:
        """Why training is over, in the person's words; None while it goes on."""
        state, patience = self.state, self.recipe.eval.early_stopping_patience
        if state.step >= self.order.steps:
            return f"all {self.order.steps} steps are done"
        if state.step >= self._last_step:
            return f"--max-steps reached after step {state.step} of {self.order.steps}"
        if patience and state.evals_without_gain >= patience:
            return f"no better held-out loss in {patience} evaluations; the adapter of step {state.best_step} is kept"
        if self.deadline is not None and self.speed.first is not None:
            step_s = state.tokens / state.step / self.speed.tokens_per_s
            if time.monotonic() + step_s + self._eval_s > self.deadline:
                return f"--max-time reached after step {state.step} of {self.order.steps}"
        return None

    def _evaluation_due(self) -> bool:
        """At the start, for the base, and every eval.steps; the last one, off the beat, is `_finish`'s."""
        state, every = self.state, self.recipe.eval.steps
        if not self._scored or state.evaluated_step == state.step or self.stop.requested:
            return False
        return state.step == 0 or (every > 0 and state.step % every == 0)

    def _evaluate(self) -> None:
        """Score the held-out rows and keep the adapter if it is the best. A stop on the way leaves all as it was."""
        began = time.perf_counter()
        state = self.state
        if state.step == 0:
            with self.model.adapter_disabled():
                loss = self._held_out_loss()
            if loss is None:
                return
            self.state = replace(state, evaluated_step=0, base_eval_loss=loss, eval_loss=loss)
        else:
            loss = self._held_out_loss()
            if loss is None:
                return
            better = state.best_eval_loss is None or loss < state.best_eval_loss
            state = replace(state, evaluated_step=state.step, eval_loss=loss)
            if better:
                state = replace(state, best_step=state.step, best_eval_loss=loss, evals_without_gain=0)
                self._write_adapter(state)
            else:
                state = replace(state, evals_without_gain=state.evals_without_gain + 1)
            self.state = state  # last: a state that is saved must not name an adapter that is not written
        self._eval_s = time.perf_counter() - began
        self.report(
            {
                "event": "eval",
                "step": self.state.step,
                "eval_loss": loss,
                "base_eval_loss": self.state.base_eval_loss,
                "best": self.state.best_step == self.state.step,
            }
        )

    def _held_out_loss(self) -> float | None:
        return held_out_loss(
            self.model,
            self.data.val,
            self._scored,
            rows_per_call=min(self.order.rows_per_step, len(self.data.train)),  # as many as the plan has counted
            pad_id=self.pad_id,
            report=self.report,
            stopped=lambda: self.stop.requested,
        )

    def _save(self) -> None:
        """A checkpoint of the state, unless this very state is saved or nothing is done yet."""
        state = self.state
        if state.step == 0 or self._saved == (state.step, state.evaluated_step):
            return
        best = self.folder.adapter if state.best_step > 0 else None
        path = save_checkpoint(
            self.folder.checkpoints,
            state,
            self.model.parameters(),
            self.optimizer,
            best,
            self.identity,
            self.model.plan_json(),
        )
        self.folder.write_info(self._described(state))
        self._saved = (state.step, state.evaluated_step)
        self.report({"event": "checkpoint", "step": state.step, "path": path.relative_to(self.folder.path).as_posix()})

    def _finish(self, ending: str) -> None:
        """The last evaluation and the adapter that is kept: the best one, or the last where nothing is held out.

        An evaluation off the beat of eval.steps comes after the last checkpoint and is not in it: a run that is later
        taken further must decide as one that was never stopped.
        """
        if self._scored and self.state.evaluated_step != self.state.step:
            self._evaluate()
            if self.stop.requested:
                raise self._interrupted()
        if self.state.best_step <= 0:
            self._write_adapter(self.state)
        self.folder.write_info(self._described(self.state, finished=True))
        notice(self.report, ending)
        best, base = self.state.best_eval_loss, self.state.base_eval_loss
        if best is not None and base is not None and best >= base:
            notice(
                self.report,
                f"the adapter does no better than the base model on held-out text ({best:.4f} against {base:.4f}); "
                "try more text, more epochs or another learning rate",
                "warning",
            )

    def _interrupted(self) -> Interrupted:
        if self.state.step == 0:
            return Interrupted("interrupted before the first step; nothing was trained")
        if self.state.best_step <= 0:
            self._write_adapter(self.state)
        return Interrupted(
            f"interrupted after step {self.state.step} of {self._last_step}; saved in {self.folder.path}, "
            "continue with --resume"
        )

    def _saved_after(self, failure: PocketftError) -> PocketftError:
        """Save what is done; the gradients of the step that failed go first, to make room for it."""
        self.optimizer.zero_grad(set_to_none=True)
        release_freed_memory()
        try:
            self._save()
        except (PocketftError, MemoryError) as error:
            notice(self.report, f"saving it after that failed too: {error or 'out of memory'}", "warning")
        return with_advice(failure, self._saved[0] if self._saved else 0)

    def _write_adapter(self, state: TrainState) -> None:
        self.folder.write_adapter(self.model.adapter_state(), self.lora, self._described(state))

    def _described(self, state: TrainState, finished: bool = False) -> RunInfo:
        kept = state.best_step if state.best_step > 0 else state.step
        loss = state.best_eval_loss if state.best_step > 0 else None
        metrics = {"loss": state.loss, "eval_loss": loss, "base_eval_loss": state.base_eval_loss}
        return replace(
            self.info,
            plan=self.model.plan_json(),
            tokens=state.tokens,
            examples=state.examples,
            steps=state.step,
            kept_step=kept,
            metrics=metrics,
            finished=finished,
        )
