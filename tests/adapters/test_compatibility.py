"""What may be merged with what, and how exactly a difference is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pocketft.adapters.compatibility import check_mergeable, differences, unknowns
from pocketft.adapters.state import AdapterInfo, BaseIdentity
from pocketft.errors import AdapterError
from tests.adapters.build import BASE, adapter


def info(label: str, **base: Any) -> AdapterInfo:
    return replace(adapter(1, label=label).info, base=replace(BASE, **base))


def test_the_same_base_may_be_merged_whatever_it_is_called() -> None:
    assert check_mergeable([info("a"), info("b", name="/home/x/SmolLM2.gguf")]) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("artifact_sha256", "c" * 64, "base file smollm2-135m cccccccccccc…"),
        ("revision", "v2", "base revision v2"),
        ("quantization", "nf4", "quantization nf4"),
        ("tokenizer_sha256", "d" * 64, "tokenizer dddddddddddd…"),
        ("architecture", "qwen3", "architecture qwen3"),
    ],
)
def test_each_difference_of_the_base_is_refused_and_named(field: str, value: str, words: str) -> None:
    with pytest.raises(AdapterError) as refused:
        check_mergeable([info("a", revision="v1"), info("odd", **{"revision": "v1", field: value}), info("b")])
    assert f"odd has the {words}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_are_compared_where_the_files_are_not_known() -> None:
    plain = [info("a", artifact_sha256=None, name="x/llama"), info("b", artifact_sha256=None, name="y/llama")]
    assert differences(plain) == ["b has the base y/llama where a has x/llama"]


def test_the_odd_one_out_is_named_not_the_majority() -> None:
    infos = [info("odd", tokenizer_sha256="d" * 64), *(info(f"good-{i}") for i in range(4))]
    assert [line.split()[0] for line in differences(infos)] == ["odd"]


def test_another_quantization_passes_only_when_allowed_and_nothing_else_does() -> None:
    other = info("b", quantization="nf4", artifact_sha256="c" * 64)
    assert "--allow-different-quantization" in differences([info("a"), other])[0]
    assert differences([info("a"), other], allow_different_quantization=True) == []
    renamed = replace(other, base=replace(other.base, name="another-model"))
    assert differences([info("a"), renamed], allow_different_quantization=True)
    as_file = replace(other, base=replace(other.base, name="/models/same-Q8_0.gguf"))
    assert differences([info("a"), as_file], allow_different_quantization=True) == []
    same_kind = info("b", artifact_sha256="c" * 64)
    assert differences([info("a"), same_kind], allow_different_quantization=True)


def test_what_is_not_recorded_is_said() -> None:
    silent = replace(info("b"), base=BaseIdentity(name="smollm2-135m"))
    assert differences([info("a"), silent]) == []
    assert len(unknowns([info("a"), silent])) == 2
    nothing = [replace(info(label), base=BaseIdentity()) for label in "ab"]
    assert "only their shapes" in unknowns(nothing)[0]


def test_other_shapes_and_whole_tensors_are_refused() -> None:
    wide = adapter(2, shapes={"model.layers.0.self_attn.q_proj": (24, 40)}, label="wide").info
    assert "24 → 40" in differences([info("a"), info("c"), wide])[0]
    whole = replace(info("whole"), extras={"base_model.model.score.weight": (2, 24)})
    assert "whole holds base_model.model.score.weight" in differences([whole, info("a")])[0]
    other = replace(info("other"), extras={"base_model.model.score.weight": (3, 24)})
    assert "(2, 24), (3, 24)" in differences([whole, other])[0]


def test_a_variant_is_refused_by_its_own_words() -> None:
    dora = replace(info("dora"), problems=("use_dora is set: DoRA rescales",))
    with pytest.raises(AdapterError, match="dora: use_dora is set"):
        check_mergeable([info("a"), dora])
