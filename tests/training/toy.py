"""A model small enough to train in microseconds, and rows for it, in the shape that the loop expects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from pocketft.data.batching import Row, collate
from pocketft.engine.batch import MicroBatch
from pocketft.errors import MemoryCapError

VOCABULARY, WIDTH, RANK = 48, 16, 4


class ToyModel:
    """One LoRA layer between a frozen embedding and a frozen head: predicts the next token from the last one alone."""

    def __init__(self, micro_batch: int = 2, dropout: float = 0.1) -> None:
        draw = torch.Generator().manual_seed(7)
        self.embedding = torch.randn(VOCABULARY, WIDTH, generator=draw)
        self.head = torch.randn(VOCABULARY, WIDTH, generator=draw) / WIDTH**0.5
        self.a = Parameter(torch.randn(RANK, WIDTH, generator=draw) / WIDTH**0.5)
        self.b = Parameter(torch.zeros(WIDTH, RANK))
        self.micro_batch = micro_batch
        self.dropout = dropout
        self.enabled = True
        self.steps = 0
        self.evaluations = 0
        self.fail_at: int | None = None  # the guard speaks in the middle of this step
        self.on_step: Any = lambda step: None
        self.on_evaluation: Any = lambda number: None

    def plan_json(self) -> dict[str, Any]:
        return {"micro_batch": self.micro_batch}

    def parameters(self) -> list[tuple[str, Parameter]]:
        return [("layer.lora_A.weight", self.a), ("layer.lora_B.weight", self.b)]

    def train_step(self, micro_batches: Sequence[MicroBatch], seed: int) -> float:
        self.on_step(self.steps)
        tokens = sum(batch.loss_tokens for batch in micro_batches)
        total = 0.0
        for number, batch in enumerate(micro_batches):
            loss = self._loss(batch, torch.Generator().manual_seed(seed + number)) / tokens
            loss.backward()
            total += loss.item()
        if self.steps == self.fail_at:
            raise MemoryCapError("resident memory would cross the cap")
        self.steps += 1
        return total

    def eval_loss(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        self.on_evaluation(self.evaluations)
        self.evaluations += 1
        with torch.no_grad():
            return sum(self._loss(b, None).item() for b in micro_batches), sum(b.loss_tokens for b in micro_batches)

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        self.enabled = False
        yield
        self.enabled = True

    def adapter_state(self) -> dict[str, Tensor]:
        return {f"base_model.model.{name}": parameter.detach().clone() for name, parameter in self.parameters()}

    def check_memory(self) -> None:
        return None

    def _loss(self, batch: MicroBatch, draw: torch.Generator | None) -> Tensor:
        hidden = self.embedding[batch.input_ids]  # (B, S, d)
        x = hidden
        if draw is not None:
            x = x * (torch.rand(x.shape, generator=draw) >= self.dropout) / (1 - self.dropout)
        if self.enabled:
            hidden = hidden + x @ self.a.T @ self.b.T
        logits = hidden @ self.head.T
        targets = batch.shifted_targets()
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


class ToyRows:
    """Rows of a language in which every token is followed by one of two others, so that there is something to learn."""

    def __init__(self, count: int, seed: int, shortest: int = 8, longest: int = 20) -> None:
        draw = np.random.default_rng(seed)
        self.rows = []
        for _ in range(count):
            tokens = [int(draw.integers(VOCABULARY))]
            for _ in range(int(draw.integers(shortest, longest + 1)) - 1):
                tokens.append((tokens[-1] * 5 + 3 + int(draw.integers(2))) % VOCABULARY)
            ids = np.array(tokens, dtype=np.int64)
            labels = ids.copy()
            labels[0] = -100
            self.rows.append(Row(ids, labels, np.arange(len(ids))))
        self.row_lengths = np.array([len(row.input_ids) for row in self.rows], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int], pad_id: int) -> MicroBatch:
        return collate([self.rows[index] for index in indices], pad_id)


@dataclass(frozen=True)
class ToyData:
    train: ToyRows
    val: ToyRows


def toy_data(rows: int = 26, held_out: int = 6) -> ToyData:
    return ToyData(ToyRows(rows, seed=1), ToyRows(held_out, seed=2))
