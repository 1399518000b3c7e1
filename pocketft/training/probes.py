"""Probes: short token sequences whose endings a model is asked about, many at a time.

Knows rows of tokens and a model that tells the loss of each; nothing of what the answers mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pocketft.data.batching import IGNORE, Row, collate
from pocketft.training.events import Reporter
from pocketft.training.planned_model import PlannedModel
from pocketft.training.step_order import micro_batch_rows

ROW_TOKENS = 256


@dataclass(frozen=True)
class Probe:
    """The model is told `ids[:asked]` and asked about the rest; `asked` is at least 1."""

    ids: tuple[int, ...]
    asked: int


@dataclass(frozen=True)
class Answer:
    """`loss` of the whole ending, in nats; `word_for_word`: the model itself would have gone on like this."""

    loss: float
    word_for_word: bool


def ask(
    model: PlannedModel, probes: Sequence[Probe], *, rows_per_call: int, pad_id: int, report: Reporter, task: str
) -> list[Answer]:
    """One answer for each probe. Several share a row, each a document of its own."""
    rows = _rows(probes)
    losses: list[torch.Tensor] = []
    greedy: list[torch.Tensor] = []
    for start in range(0, len(rows), rows_per_call):
        report({"event": "progress", "task": task, "done": start, "total": len(rows), "unit": "rows"})
        groups = micro_batch_rows(range(start, min(start + rows_per_call, len(rows))), model.micro_batch)
        some_losses, some_greedy = model.token_losses([collate([rows[i] for i in group], pad_id) for group in groups])
        losses.append(some_losses)
        greedy.append(some_greedy)
    report({"event": "progress", "task": task, "done": len(rows), "total": len(rows), "unit": "rows"})
    sizes = [len(probe.ids) - probe.asked for probe in probes]
    if not sizes:
        return []
    return [
        Answer(float(loss.sum()), bool(said.all()))
        for loss, said in zip(torch.cat(losses).split(sizes), torch.cat(greedy).split(sizes), strict=True)
    ]


def _rows(probes: Sequence[Probe]) -> list[Row]:
    """In the order of the probes, so that the answers come in their order."""
    rows: list[Row] = []
    waiting: list[Probe] = []
    for probe in probes:
        if waiting and sum(len(one.ids) for one in waiting) + len(probe.ids) > ROW_TOKENS:
            rows.append(_row(waiting))
            waiting = []
        waiting.append(probe)
    return [*rows, _row(waiting)] if waiting else rows


def _row(probes: Sequence[Probe]) -> Row:
    ids = [np.array(probe.ids, dtype=np.int64) for probe in probes]
    labels = [np.where(np.arange(len(one)) < probe.asked, IGNORE, one) for one, probe in zip(ids, probes, strict=True)]
    return Row(np.concatenate(ids), np.concatenate(labels), np.concatenate([np.arange(len(one)) for one in ids]))
