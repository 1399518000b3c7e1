"""What one training run is told to do: the schema, its YAML form, and every mistake in it at once.

Knows names, ranges and defaults. Knows nothing of how any of it is done: a recipe is plain frozen data, and no room
below imports this file.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pocketft.errors import PocketftError, RecipeError
from pocketft.files import expanded
from pocketft.memory.size import parse_size
from pocketft.recipe_text import Lines, NotAValue, read_lines, read_value


class _Section(BaseModel):
    # strict: `r: "8"` and `packing: 1` are typing mistakes, and a wrong guess costs an hour of training.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(_Section):
    name: str = Field("smollm2-135m", min_length=1, description="catalog name, .gguf file, folder or hf:owner/name")
    quantization: Literal["auto", "bf16", "int8", "nf4"] = Field(
        "auto", description="auto keeps a GGUF's own values; safetensors become bf16, int8 or nf4"
    )


class DataSection(_Section):
    max_seq_length: int = Field(512, ge=16, le=131_072, description="tokens in one row")
    val_split: float = Field(0.05, ge=0, le=0.5, description="part of the documents held out; 0 holds none out")
    packing: bool = Field(True, description="put several short documents in one row")
    me: str | None = Field(
        None, min_length=1, description="your name in chats and mail, several with commas; by default it is guessed"
    )
    column: str | None = Field(None, min_length=1, description="the column of a CSV or TSV file that holds the text")
    deduplicate: bool = Field(True, description="leave out texts that were there before, word for word or nearly so")
    drop_boilerplate: bool = Field(True, description="leave out lines that a folder repeats in document after document")
    min_chars: int = Field(16, ge=0, le=1_000_000, description="shorter texts are left out; conversations never are")
    secrets: Literal["redact", "keep", "refuse"] = Field(
        "redact", description="keys, passwords, card and phone numbers: replaced, learned, or a reason to stop"
    )


class LoraSection(_Section):
    r: int = Field(8, ge=1, le=1024, description="rank")
    alpha: int = Field(16, ge=1, le=65_536, description="scale: alpha / r, or alpha / sqrt(r) with use_rslora")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = Field("all-linear", description="all-linear, or names such as q_proj,v_proj")
    use_rslora: bool = False
    init: str | None = Field(
        None, min_length=1, description="a folder of init-group: devices that will merge start with the same A"
    )
    freeze_a: bool = Field(False, description="train B alone; with one start, merge --method ffa is then exact")

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("must be all-linear or names of modules, for example q_proj,v_proj")
        names = [name.strip() for name in names if name.strip()]
        if not names or ("all-linear" in names and len(names) > 1):
            raise ValueError("must be all-linear or names of modules, for example q_proj,v_proj")
        return "all-linear" if names == ["all-linear"] else names


class TrainingSection(_Section):
    epochs: int = Field(1, ge=1, le=10_000, description="times through the text")
    micro_batch: Literal["auto"] | int = Field("auto", description="rows computed at once; auto lets the plan choose")
    gradient_accumulation: int = Field(4, ge=1, le=65_536, description="micro-batches per optimizer step")
    learning_rate: float = Field(2e-4, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(10, ge=0, le=1_000_000)
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, ge=0, le=1e6, description="0 does not clip")
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    save_steps: int = Field(50, ge=1, le=1_000_000, description="optimizer steps between checkpoints")
    seed: int = Field(0, ge=0, lt=2**32)

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _rows(cls, value: object) -> object:
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096):
            return value
        raise ValueError("must be auto or a whole number from 1 to 4096")


class EvalSection(_Section):
    steps: int = Field(50, ge=0, le=1_000_000, description="optimizer steps between evaluations; 0: only at the end")
    early_stopping_patience: int = Field(
        3, ge=0, le=10_000, description="evaluations without a better loss before stopping; 0 never stops early"
    )


class MemorySection(_Section):
    max: str | None = Field(None, description="cap on the whole process, as in 1GB; by default 60% of what is free")

    @field_validator("max", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        if value is None or value == "auto":
            return None
        try:
            parse_size(value if isinstance(value, str) else "")
        except PocketftError:
            raise ValueError("must be a size with its unit, for example 1GB, or auto") from None
        return value

    @property
    def max_bytes(self) -> int | None:
        """The cap in bytes; None leaves it to what is free when the run starts."""
        return None if self.max is None else parse_size(self.max)


class Recipe(_Section):
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    eval: EvalSection = EvalSection()
    memory: MemorySection = MemorySection()

    def to_yaml(self) -> str:
        """The whole recipe with every default written out; `load_recipe` reads it back to an equal one."""
        return yaml.dump(self.model_dump(), sort_keys=False, allow_unicode=True, default_flow_style=False)


# What other tools call these things; the suggestion names ours.
_KNOWN_ELSEWHERE = {
    "batch_size": "training.micro_batch",
    "per_device_train_batch_size": "training.micro_batch",
    "micro_batch_size": "training.micro_batch",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "num_train_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.schedule",
    "lr_scheduler_type": "training.schedule",
    "optim": "training.optimizer",
    "rank": "lora.r",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "base_model": "model.name",
    "model_name_or_path": "model.name",
    "sequence_len": "data.max_seq_length",
    "max_length": "data.max_seq_length",
    "cutoff_len": "data.max_seq_length",
    "sample_packing": "data.packing",
    "val_set_size": "data.val_split",
    "eval_steps": "eval.steps",
    "cap": "memory.max",
}

_SECTIONS: dict[str, type[_Section]] = {name: type(field.default) for name, field in Recipe.model_fields.items()}
_KEYS = [f"{section}.{key}" for section, kind in _SECTIONS.items() for key in kind.model_fields]


def shipped_recipes() -> dict[str, Path]:
    """Name to file of the recipes that come with the program."""
    here = Path(__file__).parent
    for folder in (here / "recipes", here.parent / "recipes"):  # in the wheel, in a checkout
        files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if files:
            return files
    return {}


def recipe_summary(path: Path) -> str:
    """The comment at the top of a recipe file, as one line."""
    lines = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines)


def load_recipe(
    name_or_path: str | Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Recipe:
    """Defaults, then the file, then `--set a.b=c`, then flags ("training.seed": 7; None says nothing).

    Raises RecipeError with every problem of all of them.
    """
    problems: list[str] = []
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    sources: dict[str, str] = {}
    if name_or_path is not None:
        path = _find(str(name_or_path))
        _take_file(path, values, sources, problems)
    for text in overrides:
        _take_override(text, values, sources, problems)
    for key, value in (flags or {}).items():
        if value is not None:
            section, _, name = key.partition(".")
            values[section][name] = value
            sources[key] = key
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += [_describe(dict(detail), sources) for detail in error.errors(include_url=False)]
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)), where=str(name_or_path or "recipe"))
    return recipe


def _find(name: str) -> Path:
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    path = expanded(name)
    if os.path.isdir(path):
        raise RecipeError([f"{name} is a folder; name a YAML file or one of: {', '.join(shipped)}"], where=name)
    if not os.path.exists(path):  # unlike Path.exists it answers for a name that is too long
        raise RecipeError([f"no such file and no shipped recipe; shipped are: {', '.join(shipped)}"], where=name)
    return path


def _take_file(path: Path, values: dict[str, dict[str, Any]], sources: dict[str, str], problems: list[str]) -> None:
    document, mistakes = read_lines(path)
    problems += mistakes
    for (section, section_line), content in document.items():
        at = f"line {section_line}: "
        if section not in _SECTIONS:
            problems.append(f"{at}unknown section {section!r:.60}{_suggest(str(section))}")
        elif content is None:
            continue
        elif not isinstance(content, Lines):
            first_key = next(iter(_SECTIONS[section].model_fields))
            problems.append(f"{at}{section} must hold keys, as in `{section}: {{{first_key}: …}}`")
        else:
            for (key, line), value in content.items():
                name = f"{section}.{key}"
                if name not in _KEYS:
                    problems.append(f"line {line}: unknown key {name:.60}{_suggest(name)}")
                else:
                    values[section][str(key)] = value
                    sources[name] = f"line {line}: {name}"


def _take_override(text: str, values: dict[str, dict[str, Any]], sources: dict[str, str], problems: list[str]) -> None:
    name, equals, written = text.partition("=")
    name = name.strip()
    if not equals:
        problems.append(f"--set {text:.60}: write it as section.key=value, for example training.epochs=2")
    elif name not in _KEYS:
        problems.append(f"--set {text:.60}: unknown key {name:.60}{_suggest(name)}")
    else:
        section, _, key = name.partition(".")
        try:
            values[section][key] = read_value(written)
            sources[name] = f"--set {name}"
        except NotAValue as error:
            problems.append(f"--set {text:.60}: {error}")


def _suggest(name: str) -> str:
    """ " (did you mean …?)", by the names of other tools, by the key alone, then by likeness."""
    section, _, key = name.rpartition(".")
    key = key.lower().replace("-", "_")
    elsewhere = _KNOWN_ELSEWHERE.get(key)
    same_key = [known for known in _KEYS if known.endswith("." + key)]
    alike = difflib.get_close_matches(f"{section}.{key}" if section else key, [*_KEYS, *_SECTIONS], n=1, cutoff=0.6)
    alike_key = [
        known
        for like in difflib.get_close_matches(key, [known.partition(".")[2] for known in _KEYS], n=1, cutoff=0.7)
        for known in _KEYS
        if known.endswith("." + like)
    ]
    best = [elsewhere] if elsewhere else same_key or alike or alike_key
    if best:
        return f" (did you mean {best[0]}?)"
    known = _SECTIONS.get(section)
    return f" (known: {', '.join(known.model_fields if known else _SECTIONS)})"


def _describe(detail: dict[str, Any], sources: dict[str, str]) -> str:
    """One pydantic error in the words of this file."""
    name = ".".join(str(part) for part in detail["loc"][:2])
    context = detail.get("ctx") or {}
    kind = detail["type"]
    if kind == "value_error":
        reason = str(context["error"])
    elif kind == "literal_error":
        reason = f"must be one of {context['expected']}".replace("'", "").replace(" or ", ", ")
    elif kind.startswith("int"):
        reason = "must be a whole number"
    elif kind.startswith("float") or kind == "finite_number":
        reason = "must be a number"
    elif kind.startswith("bool"):
        reason = "must be true or false"
    elif kind == "string_too_short":
        reason = "must not be empty"
    elif kind.startswith("string"):
        reason = "must be text"
    else:  # the bounds: "Input should be greater than or equal to 1"
        reason = detail["msg"].replace("Input should be", "must be")
    given = "keys of its own" if isinstance(detail["input"], dict) else reprlib.repr(detail["input"])
    return f"{sources.get(name, name)} {reason}, not {given}"
