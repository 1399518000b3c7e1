"""Loss on rows that are not trained on.

Knows rows and a model that scores them; nothing of why they are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pocketft.data.dataset import RowSet
from pocketft.training.events import Reporter
from pocketft.training.step_order import micro_batch_rows
from pocketft.training.trainable import Trainable

_ONCE = 200  # steps whose share of the time an evaluation may take that is not repeated
_SMALLEST_SAMPLE = 32  # rows; below this the mean says little


def rows_to_score(n_rows: int, rows_per_step: int, eval_steps: int) -> list[int]:
    """Which held-out rows are scored every `eval_steps` optimizer steps: all, or as many, evenly spread, as keep
    evaluation near a tenth of the training time (a forward pass costs a third of a step's).

    0 `eval_steps` means before the first and after the last step; a large corpus holds out more than is worth the wait.
    """
    most = max(_SMALLEST_SAMPLE, (eval_steps or _ONCE) * rows_per_step // 3)
    if n_rows <= most:
        return list(range(n_rows))
    return [index * n_rows // most for index in range(most)]


def held_out_loss(
    model: Trainable,
    rows: RowSet,
    indices: Sequence[int],
    *,
    rows_per_call: int,
    pad_id: int,
    report: Reporter,
    stopped: Callable[[], bool] = lambda: False,
) -> float | None:
    """Mean loss over the loss tokens of the rows. None where `stopped` turned true or nothing carries loss."""
    lengths = rows.row_lengths
    ordered = sorted(indices, key=lambda index: -int(lengths[index]))  # like lengths together: little is padded
    loss_sum, loss_tokens = 0.0, 0
    for start in range(0, len(ordered), rows_per_call):
        if stopped():
            return None
        report({"event": "progress", "task": "held-out loss", "done": start, "total": len(ordered), "unit": "rows"})
        groups = micro_batch_rows(ordered[start : start + rows_per_call], model.micro_batch)
        batches = [rows.batch(group, pad_id) for group in groups]
        part_sum, part_tokens = model.eval_loss(batches)
        loss_sum += part_sum
        loss_tokens += part_tokens
    report({"event": "progress", "task": "held-out loss", "done": len(ordered), "total": len(ordered), "unit": "rows"})
    return loss_sum / loss_tokens if loss_tokens else None
