"""A GGUF header is distrusted: whatever a file says, the answer is a usable table or one clear line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketft.errors import ModelError
from pocketft.models.gguf_file import read_gguf
from tests.tiny_models import write_tiny_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_gguf(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(name: str, sizes: tuple[int, ...], kind: int, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def test_a_whole_file_is_read_with_rows_first(whole: Path) -> None:
    file = read_gguf(whole)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 2
    assert file.tensors["blk.0.ffn_up.weight"].shape == (128, 64)
    assert file.tensors["blk.0.ffn_up.weight"].type.name == "Q4_1"
    assert file.raw_rows("blk.0.ffn_up.weight").shape == (128, 40)


@pytest.mark.parametrize("share", [0.999999, 0.99, 0.7, 0.4, 0.1, 0.01, 0.001])
def test_a_truncated_file_is_refused(whole: Path, tmp_path: Path, share: float) -> None:
    data = whole.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(len(data) * share)])
    assert "fetch" in refusal(path) or "not a GGUF" in refusal(path)


def test_every_cut_of_the_header_is_refused(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()[:400]
    path = tmp_path / "cut.gguf"
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        refusal(path)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (header(version=1), "version 1"),
        (header(version=0x03000000), "byte order"),
        (header(tensors=2**63), "claims"),
        (header(entries=2**62), "claims"),
        (header(entries=1) + struct.pack("<Q", 2**60), "claims"),
        (header(entries=1) + string("k") + struct.pack("<IQ", 8, 2**60), "claims"),
        (header(entries=1) + string("k") + struct.pack("<IIQ", 9, 8, 2**61) + bytes(64), "claims"),
        (header(entries=1) + string("k") + struct.pack("<IIQ", 9, 4, 2**61) + bytes(64), "past its end"),
        (header(entries=1) + string("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64), "unknown type"),
        (header(entries=1) + string("k") + struct.pack("<I", 77), "unknown type"),
        (header(entries=1) + string("general.alignment") + struct.pack("<II", 4, 0), "alignment"),
        (header(entries=1) + string("general.alignment") + struct.pack("<II", 4, 3), "alignment"),
        (header(entries=1) + string("split.count") + struct.pack("<IH", 2, 3), "3 parts"),
        (header(tensors=1) + tensor("w", (2,) * 9, 0) + bytes(64), "dimensions"),
        (header(tensors=1) + tensor("w", (2**62, 2**62), 0) + bytes(64), "truncated"),
        (header(tensors=1) + tensor("w", (0, 4), 0) + bytes(64), "shape"),
        (header(tensors=1) + tensor("w", (33, 4), 2) + bytes(640), "impossible for Q4_0"),
        (header(tensors=1) + tensor("w", (4, 4), 0, offset=2**63) + bytes(640), "truncated"),
        (header(tensors=2) + tensor("w", (4, 4), 0) * 2 + bytes(640), "twice"),
        (header(tensors=1) + tensor("w", (256, 4), 16) + bytes(640), "IQ2_XXS"),
        (header(tensors=1) + tensor("w", (256, 4), 999) + bytes(640), "number 999"),
    ],
)
def test_hostile_headers_are_refused_without_believing_them(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    assert says in refusal(path)


def test_an_unsupported_type_names_the_tensor_and_what_would_do(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header(tensors=1) + tensor("blk.3.attn_q.weight", (256, 4), 29) + bytes(4096))
    message = refusal(path)
    assert "blk.3.attn_q.weight" in message and "IQ1_M" in message and "Q4_K" in message


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.gguf")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_to_the_header_gets_past_as_another_error(
    whole: Path, tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(whole.read_bytes())
    for place, value in changes:
        data[place] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    try:
        file = read_gguf(path)
    except ModelError as error:
        assert "\n" not in str(error)
        return
    for name, entry in file.tensors.items():
        assert file.raw_rows(name).shape[0] == entry.shape[0]
