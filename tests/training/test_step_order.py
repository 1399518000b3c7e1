"""Every row once an epoch, the hardest step first, and all of it a function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest

from pocketft.training.step_order import StepOrder, micro_batch_rows, step_seed

LENGTHS = np.array([5, 9, 3, 30, 12, 7, 7, 8, 2, 11], dtype=np.int32)


@pytest.mark.parametrize("rows_per_step", [1, 3, 4, 10, 16])
def test_every_row_is_trained_on_once_an_epoch(rows_per_step: int) -> None:
    order = StepOrder(LENGTHS, rows_per_step, epochs=2, seed=1)
    for epoch in range(2):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert sorted(row for step in steps for row in order.rows(step)) == list(range(10))
    assert order.steps == 2 * -(-10 // rows_per_step)


@pytest.mark.parametrize("seed", range(5))
def test_the_step_that_needs_most_memory_comes_first(seed: int) -> None:
    order = StepOrder(LENGTHS, 3, epochs=2, seed=seed)
    assert order.rows(0) == [3, 4, 9]
    assert order.rows(order.steps_per_epoch) != [3, 4, 9]


def test_rows_of_a_step_are_longest_first_so_that_micro_batches_pad_little() -> None:
    order = StepOrder(LENGTHS, 5, epochs=1, seed=0)
    for step in range(order.steps):
        lengths = [int(LENGTHS[row]) for row in order.rows(step)]
        assert lengths == sorted(lengths, reverse=True)


def test_any_step_can_be_asked_for_without_those_before_it() -> None:
    one = StepOrder(LENGTHS, 3, epochs=3, seed=4)
    forward = [one.rows(step) for step in range(one.steps)]
    backward = [StepOrder(LENGTHS, 3, epochs=3, seed=4).rows(step) for step in reversed(range(one.steps))]
    assert forward == backward[::-1]


def test_epochs_and_seeds_differ() -> None:
    order = StepOrder(LENGTHS, 2, epochs=2, seed=0)
    first, second = ([order.rows(step) for step in steps] for steps in (range(5), range(5, 10)))
    other = StepOrder(LENGTHS, 2, epochs=1, seed=1)
    assert first != second and first != [other.rows(step) for step in range(5)]


def test_every_seed_and_step_has_its_own_dropout() -> None:
    seeds = {step_seed(seed, step) for seed in range(30) for step in range(300)}
    assert len(seeds) > 8990 and 0 not in seeds


def test_micro_batches_cover_the_step_in_order() -> None:
    assert micro_batch_rows([4, 2, 9, 1, 0], 2) == [[4, 2], [9, 1], [0]]


def test_tokens_are_counted_without_padding() -> None:
    order = StepOrder(LENGTHS, 3, epochs=1, seed=0)
    assert order.tokens([0, 3, 8]) == 37
    assert order.epochs_done(2) == 0.5
