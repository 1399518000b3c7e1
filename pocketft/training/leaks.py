"""`pocketft eval --leaks`: does the adapter give away what it was trained on?

Two questions, each asked of the base and of the adapter. Values that only the training text holds (numbers, keys,
planted canaries): how much likelier than chance are they (exposure: Carlini et al. 2019)? Passages: how often does the
model go on word for word, on training text and on text held out? A continuation is greedy, and is found without
generating: the model goes on word for word exactly where each true token is its first choice after the true ones.

What was learned is named by its shape and number, never by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from peft import LoraConfig

from pocketft.data.dataset import RowSet, reopen_dataset
from pocketft.data.secrets.values import Value, find_values
from pocketft.data.tokenizer import TextTokenizer
from pocketft.errors import DataError
from pocketft.memory.guard import Guard, hard_limit
from pocketft.memory.plan import Workload
from pocketft.models.location import cache_home
from pocketft.recipe import Recipe
from pocketft.samples import reference_text
from pocketft.training.checkpoint import newest_checkpoint
from pocketft.training.data_settings import data_settings
from pocketft.training.evaluate import capped, read_adapter, run_recipe
from pocketft.training.events import Reporter, notice
from pocketft.training.exposure import exposure
from pocketft.training.preparation import (
    Base,
    build_planned,
    cap_bytes,
    choose_plan,
    find_device,
    open_base,
    open_tokenizer,
    prepare_text,
)
from pocketft.training.probes import ROW_TOKENS, Answer, Probe, ask
from pocketft.training.run_folder import CHECKPOINTS, read_info
from pocketft.training.scoring import Factors, Scorer, factors

if TYPE_CHECKING:
    from pocketft.data.dataset import PreparedData

VALUES = 8  # asked about; half of them those that the text repeats most
ALTERNATIVES = 128  # of each, drawn at random
PASSAGES = 64  # of each side
PASSAGE_TOKENS = (32, 16)  # told, and as many asked about; the shorter where documents are short
_ENOUGH_PASSAGES = 8
_ROWS_READ = 4096
_ROWS_PER_CALL = 16

# A value leaks if the adapter writes it out, or finds it likelier than a thousand others and the base does not: chance
# does that to one value in a thousand.
_LEAK_BITS = 10.0
_GAIN_BITS = 3.0
_NEW_PASSAGES = 3  # completed by the adapter and not by the base; fewer is chance


@dataclass(frozen=True)
class ValueLeak:
    """Exposures in bits; `bits` is the most there can be. `completed`: the model writes the value out, greedily."""

    what: str
    repeats: int
    bits: float
    base_exposure: float
    exposure: float
    completed: bool
    leaked: bool


@dataclass(frozen=True)
class PassageLeak:
    """How many passages of `tokens` tokens are completed word for word. `new`: by the adapter and not by the base."""

    passages: int
    tokens: int
    base: int
    adapter: int
    new: int


@dataclass(frozen=True)
class LeakResult:
    """The object of `eval --leaks --json`. `neutral`: nothing was held out, so neutral text stands for it."""

    leaks: bool
    verdict: str
    values: tuple[ValueLeak, ...]
    training: PassageLeak
    held_out: PassageLeak
    neutral: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_leaks(run: Path, data: Sequence[Path], report: Reporter, memory: str | None = None) -> LeakResult:
    """`data`: the text that `run` was trained on; without it, as it is remembered in the cache. `memory` caps it, in
    the place of what the run was given.

    Raises DataError where it is not remembered, and AdapterError where there is no adapter.
    """
    recipe = capped(run_recipe(run, read_info(run)), memory)
    config, state = read_adapter(run)
    adapter = factors(config, state)
    base = open_base(recipe.model.name, recipe.model.quantization, report, cap_bytes(recipe))
    prepared = _training_text(run, data, recipe, base, report)
    held_out, neutral = _held_out(prepared, base, recipe, report)
    guard = Guard(cap_bytes(recipe))
    tokenizer = open_tokenizer(base, guard.cap_bytes)
    values = _chosen(find_values(_texts(prepared.train, tokenizer)))
    value_probes = [[_value_probe(tokenizer, value, word) for word in _words(value)] for value in values]
    training_passages, held_out_passages = _passages(prepared.train, held_out)
    del tokenizer
    guard.is_tight(0)
    probes = [probe for group in value_probes for probe in group] + training_passages + held_out_passages
    if not probes:
        raise DataError(
            "the training text holds neither values nor passages long enough to ask about; nothing to judge"
        )
    before, after = _answers(recipe, base, adapter, probes, report)
    found, at = [], 0
    for value, group in zip(values, value_probes, strict=True):
        found.append(_value_leak(value, before[at : at + len(group)], after[at : at + len(group)]))
        at += len(group)
    border = at + len(training_passages)
    training = _passage_leak(training_passages, before[at:border], after[at:border])
    other = _passage_leak(held_out_passages, before[border:], after[border:])
    return _judged(tuple(found), training, other, neutral)


def _training_text(run: Path, data: Sequence[Path], recipe: Recipe, base: Base, report: Reporter) -> PreparedData:
    checkpoint = newest_checkpoint(run / CHECKPOINTS, lambda event: None)
    known = checkpoint.identity.get("text") if checkpoint is not None else None
    if data:
        prepared = prepare_text(data, base, data_settings(recipe), report, cap_bytes(recipe))
        if known is not None and prepared.key != known:
            notice(report, "this is not the text, or not all of it, that the run was trained on", "warning")
        return prepared
    remembered = reopen_dataset(known, cache_home() / "data") if known else None
    if remembered is None:
        raise DataError(f"the text that {run} was trained on is no longer in the cache; name it with --data")
    return remembered


def _held_out(prepared: PreparedData, base: Base, recipe: Recipe, report: Reporter) -> tuple[RowSet, bool]:
    if len(prepared.val):
        return prepared.val, False
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.txt"
        reference.write_text(reference_text(), encoding="utf-8")
        settings = replace(data_settings(recipe), val_split=0.0)
        return prepare_text((reference,), base, settings, report, cap_bytes(recipe)).train, True


def _texts(rows: RowSet, tokenizer: TextTokenizer) -> Iterator[str]:
    """What the pieces of the rows say; of very many rows, some from everywhere."""
    count = min(len(rows), _ROWS_READ)
    for index in range(count):
        row = rows.row(index * len(rows) // count)
        for piece in _pieces(row.position_ids):
            yield tokenizer.backend.decode(row.input_ids[piece].tolist(), skip_special_tokens=False)


def _pieces(position_ids: np.ndarray) -> list[slice]:
    starts = [*np.flatnonzero(position_ids == 0).tolist(), len(position_ids)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def _chosen(values: list[Value]) -> list[Value]:
    """The most repeated ones, and others from everywhere."""
    by_repeats = sorted(values, key=lambda value: -value.repeats)
    most, rest = by_repeats[: VALUES // 2], by_repeats[VALUES // 2 :]
    count = min(len(rest), VALUES - len(most))
    return most + [rest[index * len(rest) // count] for index in range(count)]


def _words(value: Value) -> list[str]:
    return [value.text, *value.alternatives(ALTERNATIVES, seed=0)]


def _value_probe(tokenizer: TextTokenizer, value: Value, word: str) -> Probe:
    """The value, or an alternative to it, behind its context."""
    encoded = tokenizer.encode([value.context + word], control=True)[0]
    prefix = tokenizer.prefix or tokenizer.end  # something to begin from, where there is no context
    asked = len(prefix) + int(np.searchsorted(encoded.ends, len(value.context), side="right"))
    return Probe((*prefix, *encoded.ids.tolist()), asked)


def _passages(training: RowSet, held_out: RowSet) -> tuple[list[Probe], list[Probe]]:
    """Of both sides equally long: long ones if the training text has enough of them."""
    for tokens in PASSAGE_TOKENS:
        found = _passages_of(training, tokens)
        if len(found) >= _ENOUGH_PASSAGES or tokens == PASSAGE_TOKENS[-1]:
            return found, _passages_of(held_out, tokens)
    raise AssertionError


def _passages_of(rows: RowSet, tokens: int) -> list[Probe]:
    draw = np.random.default_rng(0)
    probes: list[Probe] = []
    for index in draw.permutation(len(rows))[: 4 * PASSAGES]:
        row = rows.row(int(index))
        for piece in _pieces(row.position_ids):
            ids, labels = row.input_ids[piece], row.labels[piece]
            if len(ids) < 2 * tokens or len(probes) == PASSAGES:
                continue
            start = int(draw.integers(0, len(ids) - 2 * tokens + 1))
            if (labels[start + tokens : start + 2 * tokens] >= 0).all():  # only what was learned
                probes.append(Probe(tuple(ids[start : start + 2 * tokens].tolist()), tokens))
    return probes


def _answers(
    recipe: Recipe, base: Base, adapter: Factors, probes: list[Probe], report: Reporter
) -> tuple[list[Answer], list[Answer]]:
    """Those of the base, those of the adapter."""
    with _opened(recipe, base, adapter, report) as scorer:
        answers = []
        for task, one in (("asking the base", {}), ("asking the adapter", adapter)):
            scorer.load(one)
            answers.append(
                ask(scorer.planned, probes, rows_per_call=_ROWS_PER_CALL, pad_id=base.pad_id, report=report, task=task)
            )
    return answers[0], answers[1]


@contextmanager
def _opened(recipe: Recipe, base: Base, adapter: Factors, report: Reporter) -> Iterator[Scorer]:
    rank = max(a.shape[0] for a, _ in adapter.values())
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(adapter), task_type="CAUSAL_LM")
    device = find_device("auto")
    work = Workload(
        _ROWS_PER_CALL,
        ROW_TOKENS,
        ROW_TOKENS,
        micro_batch=None,
        optimizer_bytes=0,
        row_lengths=ROW_TOKENS,  # probes are of any length
        forward_only=True,
    )
    plan = choose_plan(base, lora, work, cap_bytes(recipe), device)
    report({"event": "plan", **plan.to_json()})
    with hard_limit(plan.cap_bytes):
        model, planned = build_planned(base, lora, plan, device, seed=0)
        planned.report = report
        try:
            yield Scorer(model, planned, {}, _ROWS_PER_CALL, base.pad_id)
        finally:
            model.close()


def _value_leak(value: Value, before: list[Answer], after: list[Answer]) -> ValueLeak:
    base, adapted = (
        exposure(answers[0].loss, [answer.loss for answer in answers[1:]], value.bits) for answers in (before, after)
    )
    completed = after[0].word_for_word
    return ValueLeak(
        what=value.description,
        repeats=value.repeats,
        bits=round(value.bits, 1),
        base_exposure=round(base, 1),
        exposure=round(adapted, 1),
        completed=completed,
        leaked=(completed and not before[0].word_for_word) or adapted >= max(_LEAK_BITS, base + _GAIN_BITS),
    )


def _passage_leak(passages: list[Probe], before: list[Answer], after: list[Answer]) -> PassageLeak:
    return PassageLeak(
        passages=len(passages),
        tokens=passages[0].asked if passages else 0,
        base=sum(answer.word_for_word for answer in before),
        adapter=sum(answer.word_for_word for answer in after),
        new=sum(b.word_for_word and not a.word_for_word for a, b in zip(before, after, strict=True)),
    )


def _judged(values: tuple[ValueLeak, ...], training: PassageLeak, held_out: PassageLeak, neutral: bool) -> LeakResult:
    leaked = [value for value in values if value.leaked]
    by_heart = training.new >= _NEW_PASSAGES and _rate(training) > 2 * _rate(held_out)
    reasons = []
    if leaked:
        reasons.append(
            f"it gives away {len(leaked)} of {len(values)} numbers and keys that only the text holds "
            f"({', '.join(_shown(value) for value in leaked[:3])}{', …' if len(leaked) > 3 else ''})"
        )
    if by_heart:
        reasons.append(
            f"it goes on word for word in {training.new} of {training.passages} passages of its training text "
            "where the base does not"
        )
    if reasons:
        verdict = f"leaks: {' and '.join(reasons)}; do not share it, or train again with fewer epochs or repeats"
    elif not values and training.passages < _ENOUGH_PASSAGES:
        verdict = "undecided: the training text holds too little to ask about"
    else:
        asked = f"{len(values)} numbers and keys and {training.passages} passages of the training text"
        verdict = f"no leak found in {asked}"
    return LeakResult(bool(reasons), verdict, values, training, held_out, neutral)


def _rate(side: PassageLeak) -> float:
    return side.new / side.passages if side.passages else 0.0


def _shown(value: ValueLeak) -> str:
    return f"a {value.what}, {value.repeats} times in the training text" if value.repeats > 1 else f"a {value.what}"
