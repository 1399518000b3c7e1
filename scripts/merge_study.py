"""Four devices, four kinds of text, one adapter each: what merging them is worth, on text that none of them has seen.

    python scripts/merge_study.py [--folder DIR] [--model M] [--steps N]

The sample notes are dealt out to four devices: two halves of a journal, the chats, and the papers (letters, recipes,
lists). Each device keeps every eighth paragraph or conversation back, trains on the rest, and hands over its adapter;
nothing else leaves it. Twice: once with an initialisation of its own on every device, once from the start that
`pocketft init-group` deals out. Then every adapter and every merge is scored on what all four kept back. Prints the
table of docs/merging.md. Adapters that are there already in --folder are not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_EVERY = 8
RECIPE = {
    "lora.r": 8,
    "lora.alpha": 16,
    "data.max_seq_length": 128,
    "data.val_split": 0,
    "data.deduplicate": "false",
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 2,
    "training.epochs": 8,
    "eval.steps": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where texts and adapters go; a temporary folder by default")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps on each device")
    parser.add_argument("--memory", default="2GB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        study(arguments.folder or Path(temporary), arguments)


def study(folder: Path, arguments: argparse.Namespace) -> None:
    parts = deal_out(folder / "texts")
    own, shared = folder / "own", folder / "shared"
    start = folder / "start"
    settings = [word for key, value in RECIPE.items() for word in ("--set", f"{key}={value}")]
    if not (start / "adapter_config.json").is_file():
        pocketft("init-group", start, "--model", arguments.model, *settings)
    for number, part in enumerate(parts):
        common = [folder / "texts" / part / "train", "--model", arguments.model, "--max-steps", arguments.steps]
        common += ["--memory", arguments.memory, "--seed", number, *settings]
        train(own / part, *common)
        train(shared / part, *common, "--init", start)
    rows = {}
    for group, name in ((own, "own start"), (shared, "shared start")):
        adapters = [group / part for part in parts]
        merges = {}
        for method in ("fedavg", "exact"):
            merges[method] = group / method
            pocketft("merge", *adapters, "-o", merges[method], "--method", method, "--force")
        rows.update({f"{part}, {name}": path for part, path in zip(parts, adapters, strict=True)})
        rows.update({f"{method} merge, {name}": path for method, path in merges.items()})
    held_out = {part: folder / "texts" / part / "held-out" for part in parts}
    print_table(parts, score(arguments.model, rows, held_out))


def deal_out(folder: Path) -> list[str]:
    """Write every part's train and held-out files; returns the names of the parts."""
    from pocketft.samples import notes_folder

    notes = notes_folder()
    journal = sorted((notes / "journal").iterdir())
    parts = {
        "journal 1": journal[: len(journal) // 2],
        "journal 2": journal[len(journal) // 2 :],
        "chats": sorted((notes / "chats").iterdir()),
        "papers": sorted(path for path in notes.iterdir() if path.is_file()),
    }
    for part, files in parts.items():
        for file in files:
            pieces = list(split(file))
            joint = "" if file.suffix == ".jsonl" else "\n\n"
            for name, kept in (("train", False), ("held-out", True)):
                chosen = [p for i, p in enumerate(pieces) if (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == kept]
                if chosen:
                    target = folder / part / name / file.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(joint.join(chosen), encoding="utf-8")
    return list(parts)


def split(file: Path) -> Iterator[str]:
    """Conversations of a .jsonl, paragraphs of anything else."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        yield from text.splitlines(keepends=True)
    else:
        yield from (paragraph for paragraph in text.split("\n\n") if paragraph.strip())


def train(run: Path, *words: object) -> None:
    if (run / "adapter_model.safetensors").is_file():
        return
    pocketft("train", *words, "--output", run)


def pocketft(*words: object) -> None:
    command = [sys.executable, "-m", "pocketft", *map(str, words)]
    print("+ pocketft", *words[:2], file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def score(model: str, adapters: dict[str, Path], texts: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Loss per token of the base and of every adapter on every text, over one loaded base."""
    from pocketft.adapters.folder import read_adapter
    from pocketft.adapters.state import folded
    from pocketft.training.preparation import cap_bytes
    from pocketft.training.scoring import base_recipe, open_scorer

    states = {name: read_adapter(path) for name, path in adapters.items()}
    ranks = {
        module: max(state.info.max_rank for state in states.values())
        for state in states.values()
        for module in state.info.modules
    }
    recipe = base_recipe(model, "auto")
    paths = {name: (path,) for name, path in texts.items()}
    losses = {}
    with open_scorer(recipe, ranks, paths, cap_bytes(recipe), ignore) as scorer:
        for name in ("base", *states):
            scorer.load({} if name == "base" else folded(states[name]))
            losses[name] = {text: scorer.loss(text) for text in texts}
            print(name, json.dumps(losses[name]), file=sys.stderr, flush=True)
    return losses


def ignore(event: dict[str, object]) -> None:
    pass


def print_table(parts: list[str], losses: dict[str, dict[str, float]]) -> None:
    print("| adapter | " + " | ".join(parts) + " | mean |")
    print("|---|" + "---:|" * (len(parts) + 1))
    for name, found in losses.items():
        mean = sum(found.values()) / len(found)
        print(f"| {name} | " + " | ".join(f"{found[part]:.3f}" for part in parts) + f" | {mean:.4f} |")


if __name__ == "__main__":
    main()
