"""`pocketft data inspect`: what a run would learn from, and how long one epoch of it would take. Trains nothing."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from pocketft.data.overview import document_lengths, sample_texts
from pocketft.errors import CapTooSmall, MemoryCapError
from pocketft.training.data_settings import data_settings
from pocketft.training.events import Reporter
from pocketft.training.preparation import (
    cap_bytes,
    choose_plan,
    find_device,
    lora_config,
    open_base,
    open_tokenizer,
    prepare_text,
    rows_per_step,
    workload,
)
from pocketft.training.session import TrainRequest
from pocketft.training.step_order import StepOrder


def look(request: TrainRequest, report: Reporter) -> dict[str, Any]:
    """The object of `data inspect --json`."""
    recipe = request.recipe
    cap = cap_bytes(recipe)
    base = open_base(recipe.model.name, recipe.model.quantization, report, cap)
    data = prepare_text(request.data, base, data_settings(recipe), report, cap)
    order = StepOrder(data.train.row_lengths, rows_per_step(recipe), 1, recipe.training.seed)
    notices = list(data.report.notices)
    epoch: dict[str, float] | None = None
    try:
        work = workload(recipe, data, order.steps, order.steps)
        plan = choose_plan(base, lora_config(recipe), work, cap, find_device(request.device))
        seconds = data.train.tokens / plan.tokens_per_s
        epoch = {"steps": order.steps, "tokens_per_s": round(plan.tokens_per_s, 1), "seconds": round(seconds, 3)}
    except CapTooSmall as error:
        notices.append(str(error))
    samples: list[str] = []
    try:
        samples = sample_texts(data.tokens_dir, open_tokenizer(base, cap))
    except (CapTooSmall, MemoryCapError) as error:
        notices.append(f"no samples: {error}")
    account = data.report.to_json()
    reading = account.pop("reading")
    return {
        **account,
        "read": reading["documents"],
        "characters": reading["characters"],
        "damaged": reading["damaged"],
        "dates": [_day(reading["first_s"]), _day(reading["last_s"])],
        "languages": reading["languages"],
        "people": reading["people"],
        "voice": reading["voice"],
        "voice_guessed": reading["voice_guessed"],
        "lengths": [asdict(entry) for entry in document_lengths(data.tokens_dir)],
        "samples": samples,
        "epoch": epoch,
        "notices": notices,
    }


def _day(time_s: float | None) -> str | None:
    try:
        return None if time_s is None else datetime.fromtimestamp(time_s, timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None
