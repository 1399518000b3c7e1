"""What was said on the command line, and how it becomes a recipe and a request.

Flags win over `--set`, which wins over the recipe file, which wins over the defaults.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketft.errors import UsageError
from pocketft.files import expanded

if TYPE_CHECKING:
    from pocketft.recipe import Recipe
    from pocketft.training.session import TrainRequest


@dataclass(frozen=True)
class Choices:
    """What was said on the command line, before anything is read."""

    data: Sequence[str]
    model: str | None = None
    memory: str | None = None
    recipe: str | None = None
    overrides: Sequence[str] = ()
    seed: int | None = None
    output: str | None = None
    max_steps: int | None = None
    max_time: str | None = None
    resume: bool = False
    force: bool = False
    device: str = "auto"
    me: str | None = None
    column: str | None = None
    secrets: str | None = None
    init: str | None = None

    def request(self) -> TrainRequest:
        """Everything checked that can be checked before the first heavy import."""
        data, recipe, output = existing_paths(self.data), self.resolved_recipe(), self.output_path()
        max_time_s = None if self.max_time is None else parse_duration(self.max_time)
        if self.resume and self.force:
            raise UsageError("--resume continues a run and --force replaces it; give one of the two")

        from pocketft.training.session import TrainRequest

        return TrainRequest(
            data=data,
            recipe=recipe,
            output=output,
            resume=self.resume,
            force=self.force,
            max_steps=self.max_steps,
            max_time_s=max_time_s,
            device=self.device,
        )

    def resolved_recipe(self) -> Recipe:
        """The recipe with flags applied; a resumed run starts from the one it kept, so that it goes on as it began, and
        one with a common start from the one that lies with it.
        """
        from pocketft.cli.environment import allow_hub_for
        from pocketft.recipe import load_recipe

        name: str | Path | None = self.recipe
        if name is None and self.resume and self.output is not None:
            kept = self.output_path() / "recipe.yaml"
            name = kept if kept.is_file() else None
        if name is None and self.init is not None:
            name = expanded(self.init) / "recipe.yaml"
            if not name.is_file():
                raise UsageError(
                    f"{self.init} is no common start: it has no recipe.yaml; `pocketft init-group` makes one"
                )
        flags = {
            "model.name": self.model,
            "data.me": self.me,
            "data.column": self.column,
            "data.secrets": self.secrets,
            "memory.max": self.memory,
            "training.seed": self.seed,
            "lora.init": self.init and str(expanded(self.init)),
        }
        recipe = load_recipe(name, self.overrides, flags)
        allow_hub_for(recipe.model.name)
        return recipe

    def output_path(self) -> Path:
        if self.output is not None:
            return expanded(self.output)
        if self.resume:
            raise UsageError("--resume continues a run: name its folder with --output (`pocketft runs` lists them)")
        return default_output(self.data)


def existing_paths(names: Sequence[str]) -> tuple[Path, ...]:
    paths = tuple(expanded(name) for name in names)
    missing = [str(path) for path in paths if not os.path.exists(path)]  # a name that is too long is missing, too
    if missing:
        raise UsageError(f"no such file or folder: {', '.join(missing)}; name files or folders of text")
    return paths


def default_output(data: Sequence[str], folder: Path = Path("runs")) -> Path:
    """runs/<first data name>-<date>-<time>; a second run in the same second gets a number."""
    name = expanded(data[0]).resolve().stem if data else ""
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:40] or "run"
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while path.exists():
        path = path.with_name(f"{path.name.partition('~')[0]}~{number}")
        number += 1
    return path


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30m", "1h30m"."""
    match = _DURATION.fullmatch(text.strip().replace(" ", ""))
    seconds = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if seconds <= 0:
        raise UsageError(f"--max-time {text!r:.40} is not a time; write for example 90s, 30m or 1h30m")
    return seconds


def cap_bytes(memory: str | None) -> int:
    """The cap of verbs without a recipe."""
    from pocketft.memory.meter import usual_cap_bytes
    from pocketft.memory.size import parse_size

    return usual_cap_bytes() if memory is None else parse_size(memory)
