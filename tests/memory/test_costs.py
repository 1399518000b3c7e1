"""What is known of a model's costs: the same as measured, asked for once, and forgotten when anything changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig

from pocketft.engine.loss import LossTiles
from pocketft.memory import costs as module
from pocketft.memory.costs import Question, costs
from tests.engine.memory_source import MemorySource, as_affine4

CONFIG = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


class MeasuredAgain(Exception):
    pass


@pytest.fixture
def question() -> Question:
    torch.manual_seed(0)
    source = MemorySource(AutoModelForCausalLM.from_config(CONFIG), as_affine4)
    tiles = [LossTiles(128, 16), LossTiles(64, 8)]
    return Question(CONFIG, source, lora(), 32, [1, 2], [False, True], tiles, torch.float32)


def lora(r: int = 4) -> LoraConfig:
    return LoraConfig(r=r, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")


def only_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(question: Question) -> None:
        raise MeasuredAgain

    monkeypatch.setattr(module, "_measure", refuse)


def test_what_was_measured_is_known_to_the_last_digit(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = costs(question, None)
    assert costs(question, tmp_path) == measured
    only_remember(monkeypatch)
    again = replace(question, lora=copy.deepcopy(question.lora), config=LlamaConfig(**CONFIG.to_dict()))
    assert costs(again, tmp_path) == measured


def test_anything_else_is_measured_anew(question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs(question, tmp_path)
    only_remember(monkeypatch)
    wider = LlamaConfig(**{**CONFIG.to_dict(), "num_key_value_heads": 4})
    others = [
        replace(question, config=wider),
        replace(question, lora=lora(r=8)),
        replace(question, length=64),
        replace(question, micro_batches=[1]),
        replace(question, keeps_attention=[False]),
        replace(question, tiles=[LossTiles(128, 16)]),
        replace(question, dtype=torch.bfloat16),
    ]
    for other in others:
        with pytest.raises(MeasuredAgain):
            costs(other, tmp_path)
    monkeypatch.setattr(module, "_code", lambda: "another version")
    with pytest.raises(MeasuredAgain):
        costs(question, tmp_path)


def test_a_damaged_or_unwritable_cache_is_no_reason_to_stop(question: Question, tmp_path: Path) -> None:
    measured = costs(question, tmp_path)
    whole = (tmp_path / "costs.json").read_bytes()
    for damaged in (b"", whole[:-40], b"[]", b"\xff\xfe", whole.replace(b'"forward_bytes":', b'"forward_bytes":"x",')):
        (tmp_path / "costs.json").write_bytes(damaged)
        assert costs(question, tmp_path) == measured
    assert costs(question, tmp_path / "costs.json") == measured  # a file where the folder should be


def test_only_the_latest_are_remembered(question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = costs(question, None)
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    monkeypatch.setattr(module, "_measure", lambda question: measured)
    for length in (16, 32, 64):
        costs(replace(question, length=length), tmp_path)
    only_remember(monkeypatch)
    assert costs(replace(question, length=64), tmp_path) == measured
    with pytest.raises(MeasuredAgain):
        costs(replace(question, length=16), tmp_path)
