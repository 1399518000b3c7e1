"""The text that all contenders train on, as rows of exactly S tokens, the same tokens in the same order for all.

pocketft ends its rows at paragraphs, so they differ in length; for a comparison its cached row tables of this one text
are replaced by rows of exactly S tokens. Everything else is the ordinary command: it finds its text prepared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.places import ROWS
from pocketft.data.dataset import PreparedData
from pocketft.data.layout import DOCUMENT, PIECE, ROW, FlatFile, rows_folder
from pocketft.models.location import cache_home
from pocketft.recipe import Recipe, load_recipe
from pocketft.samples import notes_folder, reference_text
from pocketft.training.data_settings import data_settings
from pocketft.training.preparation import open_base, prepare_text
from pocketft.training.step_order import StepOrder


@dataclass(frozen=True)
class Task:
    """What every contender does: `steps` optimizer steps of `rows` rows of exactly `seq_length` tokens of `model`."""

    model: str
    seq_length: int = 512
    rows: int = 4
    steps: int = 5

    @property
    def tokens_per_step(self) -> int:
        return self.seq_length * self.rows

    @property
    def name(self) -> str:
        return f"{self.model}-{self.seq_length}x{self.rows}x{self.steps}"


@dataclass(frozen=True)
class Prepared:
    """A task that is ready to run: pocketft's arguments, and the peers' rows (steps * rows, S) as .npy."""

    task: Task
    text: Path
    overrides: tuple[str, ...]
    rows_file: Path


def prepare(task: Task) -> Prepared:
    """Make the base's store, tokenize the text and cut it; done already, it takes a second."""
    text = _text_file()
    overrides = _overrides(task, epochs=1)
    recipe = _recipe(task, overrides)
    base = open_base(recipe.model.name, recipe.model.quantization, _silent)
    data = prepare_text((text,), base, data_settings(recipe), _silent)
    per_epoch = _cut_exactly(data, task)
    overrides = _overrides(task, epochs=-(-task.steps // per_epoch))
    recipe = _recipe(task, overrides)
    data = prepare_text((text,), base, data_settings(recipe), _silent)
    rows_file = ROWS / f"{task.name}.npy"
    _save_rows(data, recipe, task, rows_file)
    return Prepared(task, text, overrides, rows_file)


def _text_file() -> Path:
    """The shipped sample notes and reference prose, one after another, as one document."""
    path = ROWS / "sample.txt"
    notes = sorted(file for file in notes_folder().rglob("*") if file.suffix in (".md", ".txt"))
    text = "\n\n".join([reference_text(), *(file.read_text(encoding="utf-8") for file in notes)])
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def _overrides(task: Task, epochs: int) -> tuple[str, ...]:
    return (
        f"data.max_seq_length={task.seq_length}",
        "data.val_split=0",
        "data.deduplicate=false",
        "data.drop_boilerplate=false",
        "data.secrets=keep",
        f"training.epochs={epochs}",
        f"training.gradient_accumulation={task.rows}",
        "training.learning_rate=2e-4",
        "training.schedule=constant",
        "training.warmup_steps=0",
        "training.save_steps=100000",
        "eval.steps=0",
        "lora.r=8",
        "lora.alpha=16",
    )


def _recipe(task: Task, overrides: tuple[str, ...]) -> Recipe:
    return load_recipe(None, overrides, {"model.name": task.model})


def _cut_exactly(data: PreparedData, task: Task) -> int:
    """Replace the row tables in the cache by rows of exactly S tokens; the number of steps in one pass over them."""
    summary = json.loads((data.tokens_dir / "summary.json").read_text(encoding="utf-8"))
    with FlatFile(data.tokens_dir / "documents.bin", DOCUMENT) as documents:
        framed = bool(documents.read(0, 1)[0]["framed"])
    prefix = len(summary["prefix"]) if framed else 0
    count = task.seq_length - prefix
    total = summary["tokens"] // count // task.rows * task.rows
    if not total:
        raise SystemExit(f"error: the text has too few tokens for {task.rows} rows of {task.seq_length}")
    loss = count if prefix else count - 1
    pieces = np.array([(index * count, count, framed) for index in range(total)], dtype=PIECE)
    rows = np.array([(index, 1, task.seq_length, loss) for index in range(total)], dtype=ROW)
    folder = rows_folder(cache_home() / "data", data.key)
    (folder / "train.pieces").write_bytes(pieces.tobytes())
    (folder / "train.rows").write_bytes(rows.tobytes())
    about = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    about["train"] = {
        "rows": total,
        "pieces": total,
        "tokens": total * task.seq_length,
        "loss_tokens": total * loss,
    }
    (folder / "summary.json").write_text(json.dumps(about), encoding="utf-8")
    return total // task.rows


def _save_rows(data: PreparedData, recipe: Recipe, task: Task, path: Path) -> None:
    """The tokens in the very order in which pocketft takes them."""
    order = StepOrder(data.train.row_lengths, task.rows, recipe.training.epochs, recipe.training.seed)
    indices = [index for step in range(task.steps) for index in order.rows(step)]
    np.save(path, np.stack([data.train.row(index).input_ids for index in indices]))


def _silent(event: object) -> None:
    pass
