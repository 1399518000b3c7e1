"""The exported files in llama.cpp itself, against pocketft's own numbers on the same base.

Needs `pip install pocketft[llama-cpp-test]`, which compiles llama.cpp, and fetches both catalog models:

    python -m pytest -m llama_cpp tests/adapters/test_llama_cpp.py

llama.cpp rounds activations to 8 bits before it multiplies them with quantized weights, so on the bare base the two
differ already, by 0.05 to 0.09 nats per token. That is the yardstick: with the adapter they may differ no more than
1.5 times as much, and the shift that the adapter makes must be the same to a quarter of its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pocketft.adapters.export_run import ExportRequest, export
from pocketft.data.tokenizer import load_text_tokenizer
from pocketft.engine.model import build_model
from pocketft.memory.guard import Guard
from pocketft.models.base_model import BaseModel, load_config, resolve_base
from pocketft.models.location import locate
from pocketft.recipe import load_recipe
from pocketft.samples import notes_folder
from pocketft.training.evaluate import read_adapter
from pocketft.training.session import TrainRequest, train

pytestmark = [pytest.mark.slow, pytest.mark.llama_cpp]

TOKENS = 200
CAP = 4 << 30
SETTINGS = [
    "data.max_seq_length=128",
    "data.val_split=0",
    "training.learning_rate=2e-3",
    "training.warmup_steps=1",
    "eval.steps=0",
    "memory.max=2GB",
]


@dataclass(frozen=True)
class Trained:
    """An adapter of a few steps, and what pocketft says of the text without and with it."""

    run: Path
    silent: Path  # the same adapter with B zero: the base alone, in whatever form it is exported
    base_file: Path
    ids: list[int]
    bare: Tensor  # log-probabilities of the 200 tokens, (200,)
    adapted: Tensor

    @property
    def shift(self) -> Tensor:
        return self.adapted - self.bare


@pytest.fixture(scope="module", params=["smollm2-135m", "gemma-3-270m"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    pytest.importorskip("llama_cpp")
    root = tmp_path_factory.mktemp(request.param)
    notes = notes_folder()
    unseen = notes / "the-bishop.md"
    texts = tuple(path for path in sorted(notes.rglob("*")) if path.is_file() and path != unseen)
    recipe = load_recipe(None, [f"model.name={request.param}", *SETTINGS])
    train(TrainRequest(texts, recipe, root / "run", max_steps=8, device="cpu"), quiet)
    base = resolve_base(request.param)
    ids = tokens(base, unseen.read_text(encoding="utf-8"))
    bare, adapted = ours(base, root / "run", ids)
    file = locate(request.param).path
    assert file is not None
    yield Trained(root / "run", silenced(root / "run", root / "silent"), file, ids, bare, adapted)


def test_the_adapter_in_llama_cpp_makes_the_same_shift(trained: Trained, tmp_path: Path) -> None:
    export(ExportRequest(trained.run, "gguf", tmp_path / "a.gguf", Guard(CAP)), quiet)
    bare = theirs(trained.base_file, trained.ids)
    adapted = theirs(trained.base_file, trained.ids, tmp_path / "a.gguf")
    assert_agrees(trained, bare, adapted)


@pytest.mark.parametrize("quantize", ["f16", "q8_0"])
def test_the_merged_gguf_makes_the_same_shift(trained: Trained, tmp_path: Path, quantize: str) -> None:
    found = []
    for run in (trained.silent, trained.run):
        export(ExportRequest(run, "merged", tmp_path / "m.gguf", Guard(CAP), quantize=quantize, force=True), quiet)
        found.append(theirs(tmp_path / "m.gguf", trained.ids))
    assert_agrees(trained, *found)


def assert_agrees(trained: Trained, bare: Tensor, adapted: Tensor) -> None:
    bare_gap, adapted_gap = gap(bare, trained.bare), gap(adapted, trained.adapted)
    shift_gap = gap(adapted - bare, trained.shift) / float(trained.shift.abs().mean())
    print(f"bare {bare_gap:.4f}, adapted {adapted_gap:.4f} nats per token; shift differs by {100 * shift_gap:.1f}%")
    assert trained.shift.abs().mean() > 0.3  # an adapter that says something
    assert bare_gap < 0.12
    assert adapted_gap < 1.5 * bare_gap
    assert shift_gap < 0.25


def gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


def ours(base: BaseModel, run: Path, ids: list[int]) -> tuple[Tensor, Tensor]:
    config, state = read_adapter(run)
    config.inference_mode = False
    lora: Any = config
    model = build_model(load_config(base), base.store, lora=lora, dtype=torch.float32)
    model.load_adapter_state(state)

    def scored() -> Tensor:
        with torch.inference_mode():
            return token_scores(model.model(input_ids=torch.tensor([ids])).logits[0], ids)

    adapted = scored()
    with model.adapter_disabled():
        bare = scored()
    model.close()
    return bare, adapted


def theirs(model: Path, ids: list[int], adapter: Path | None = None) -> Tensor:
    import llama_cpp

    lora = None if adapter is None else str(adapter)
    llama = llama_cpp.Llama(str(model), n_ctx=512, logits_all=True, lora_path=lora, verbose=False)
    llama.eval(ids)
    scores = token_scores(torch.from_numpy(llama.scores[: len(ids)].copy()), ids)
    llama.close()
    return scores


def token_scores(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Logits (S, V) -> log-probability of each token after the first, (S - 1,)."""
    return torch.log_softmax(logits[:-1].float(), dim=-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def tokens(base: BaseModel, text: str) -> list[int]:
    tokenizer = load_text_tokenizer(base.config_dir)
    return [*tokenizer.prefix, *tokenizer.encode([text], control=False)[0].ids.tolist()][: TOKENS + 1]


def silenced(run: Path, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for name in ("adapter_config.json", "pocketft.json", "recipe.yaml"):
        (folder / name).write_bytes((run / name).read_bytes())
    state = load_file(run / "adapter_model.safetensors")
    zeros = {name: tensor * 0 if ".lora_B." in name else tensor for name, tensor in state.items()}
    save_file(zeros, folder / "adapter_model.safetensors")
    return folder


def quiet(event: dict[str, Any]) -> None:
    return None
