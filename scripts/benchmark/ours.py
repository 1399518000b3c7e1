"""pocketft on a plan of a given kind: `pocketft train` with the planner's candidates narrowed down.

    python -m benchmark.ours '{"text": file, "model": name, "overrides": [...], "memory": "2GB", "output": folder,
                               "max_steps": 4, "among": {"residence": "streamed", "kept": "none", "tiles": "wide"}}'

among, each optional: `residence` of all blocks; `kept`, whether all graphs are kept or none; `tiles` of the loss, wide
or narrow. What the planner may still choose, it chooses as always; where nothing fits, it says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketft.memory.plan import Plan

_WIDE_LOGITS = 1 << 20  # of a tile of the loss


def main() -> None:
    from pocketft.cli.environment import set_defaults
    from pocketft.cli.exits import exit_code_of

    set_defaults()
    job = json.loads(sys.argv[1])
    sys.exit(exit_code_of(lambda: train(job)))


def train(job: Mapping[str, Any]) -> None:
    from dataclasses import replace

    from pocketft.cli.choices import Choices

    choices = Choices(
        [job["text"]],
        model=job["model"],
        memory=job["memory"],
        overrides=job["overrides"],
        output=job["output"],
        max_steps=job["max_steps"],
        device="cpu",
    )
    request = choices.request()
    from pocketft.training.session import train as run_training

    narrowed = replace(request, among=one_of(job["among"]))
    run_training(narrowed, lambda event: None)


def one_of(wanted: Mapping[str, str]) -> Callable[[Plan], bool]:
    """Whether a plan is of the wanted kind."""

    def is_wanted(plan: Plan) -> bool:
        kept = {len(plan.residences): "all", 0: "none"}.get(plan.kept_blocks, "some")
        tiles = "wide" if plan.loss_tiles.tokens * plan.loss_tiles.vocab_rows >= _WIDE_LOGITS else "narrow"
        residence = next(iter(plan.residences)) if len(set(plan.residences)) == 1 else "mixed"
        found = {"residence": residence, "kept": kept, "tiles": tiles}
        return wanted.items() <= found.items()

    return is_wanted


if __name__ == "__main__":
    main()
