"""A block store gives back what was put in, notices damage, and is never half there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pocketft.errors import ModelError, StorageError
from pocketft.models import block_store
from pocketft.models.block_store import BlockStore, build_store
from pocketft.models.layout import Layout
from pocketft.models.source import SourceBlock, SourceTensor
from tests.models.in_process import damaged_blocks

AFFINE = Layout("affine4", 32, has_minimum=True)


def tensor(name: str, shape: tuple[int, ...], layout: Layout, seed: int) -> tuple[SourceTensor, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    parts = {}
    for part, (dtype, part_shape) in layout.parts(shape).items():
        if dtype.is_floating_point:
            parts[part] = torch.randn(part_shape, generator=random).to(dtype)
        else:
            parts[part] = torch.randint(0, 127, part_shape, generator=random).to(dtype)
    return SourceTensor(name, shape, layout, lambda a, b: {k: v[a:b] for k, v in parts.items()}), parts


@pytest.fixture
def blocks() -> tuple[list[SourceBlock], dict[str, Mapping[str, Tensor]]]:
    expected: dict[str, Mapping[str, Tensor]] = {}
    made = []
    for seed, (block, name, shape, layout) in enumerate(
        [
            ("embedding", "embed.weight", (50, 96), Layout("bf16")),
            ("block.0", "q.weight", (33, 96), AFFINE),
            ("block.0", "q.bias", (33,), Layout("f32")),
            ("block.0", "up.weight", (40, 64), Layout("nf4", 64)),
            ("block.0", "down.weight", (7, 5), Layout("int8")),
            ("norm", "norm.weight", (96,), Layout("f32")),
        ]
    ):
        source, expected[name] = tensor(name, shape, layout, seed)
        made.append((block, source))
    names = dict.fromkeys(block for block, _ in made)
    return [SourceBlock(name, tuple(t for block, t in made if block == name)) for name in names], expected


def test_what_is_read_is_what_was_written(tmp_path: Path, blocks: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_store, "_ROWS_WEIGHTS", 200)  # a few rows at a time
    sources, expected = blocks
    store = build_store(tmp_path / "store", sources, {"name": "m"})
    assert list(store.block_names()) == ["embedding", "block.0", "norm"]
    for block in store.block_names():
        spec = store.block_spec(block)
        for name, packed in store.read_block(block).items():
            told = next(t for t in spec.tensors if t.name == name)
            assert (told.kind, told.shape) == (packed.kind, packed.shape)
            for part, data in packed.parts.items():
                assert torch.equal(data, expected[name][part])
                assert data.data_ptr() % 64 == 0
    assert store.info["name"] == "m"
    assert damaged_blocks(store.folder) == []


def test_a_block_is_read_into_the_buffer_that_is_given(tmp_path: Path, blocks: tuple) -> None:
    store = build_store(tmp_path / "store", blocks[0], {})
    buffer = torch.zeros(store.block_spec("block.0").nbytes + 100, dtype=torch.uint8)
    packed = store.read_block("block.0", buffer)["q.weight"]
    assert torch.equal(packed.parts["codes"], blocks[1]["q.weight"]["codes"])
    buffer.zero_()
    assert packed.parts["codes"].sum() == 0  # views, not copies
    with pytest.raises(ValueError, match="buffer"):
        store.read_block("block.0", buffer[:64])


def test_single_tensors_can_be_read_alone(tmp_path: Path, blocks: tuple) -> None:
    store = build_store(tmp_path / "store", blocks[0], {})
    found = store.read_tensors("block.0", ["q.bias", "up.weight"])
    assert list(found) == ["q.bias", "up.weight"]
    for name, packed in found.items():
        for part, data in packed.parts.items():
            assert torch.equal(data, blocks[1][name][part])


def test_configuration_goes_along(tmp_path: Path, blocks: tuple) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{}")
    build_store(tmp_path / "store", blocks[0], {}, tmp_path / "c")
    assert (tmp_path / "store" / "config" / "config.json").read_text() == "{}"


def test_damage_shows_in_the_index_and_truncation_at_once(tmp_path: Path, blocks: tuple) -> None:
    store = build_store(tmp_path / "store", blocks[0], {})
    path = tmp_path / "store" / "block.0.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert damaged_blocks(store.folder) == ["block.0"]
    path.write_bytes(data[:-64])
    with pytest.raises(ModelError, match="truncated"):
        store.read_block("block.0")
    with pytest.raises(ModelError, match="truncated"):
        BlockStore(tmp_path / "store")
    path.unlink()
    with pytest.raises(ModelError, match="missing"):
        BlockStore(tmp_path / "store")


@pytest.mark.parametrize("index", [None, "", "{", "[]", '{"blocks": []}', '{"format": 99, "info": {}, "blocks": []}'])
def test_another_format_or_a_broken_index_is_refused(tmp_path: Path, blocks: tuple, index: str | None) -> None:
    build_store(tmp_path / "store", blocks[0], {})
    path = tmp_path / "store" / "index.json"
    if index is None:
        path.unlink()
    else:
        path.write_text(index)
    with pytest.raises(ModelError, match="prepared again"):
        BlockStore(tmp_path / "store")


def test_a_failed_build_leaves_the_old_store_and_nothing_else(tmp_path: Path, blocks: tuple) -> None:
    build_store(tmp_path / "store", blocks[0], {"version": 1})
    source = blocks[0][0].tensors[0]

    def fails(start: int, stop: int) -> Mapping[str, Tensor]:
        raise ModelError("the source went away")

    broken = SourceBlock("embedding", (SourceTensor(source.name, source.shape, source.layout, fails),))
    with pytest.raises(ModelError, match="went away"):
        build_store(tmp_path / "store", [broken], {"version": 2})
    assert BlockStore(tmp_path / "store").info["version"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_is_found_before_anything_is_written(
    tmp_path: Path, blocks: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr(block_store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="POCKETFT_HOME"):
        build_store(tmp_path / "store", blocks[0], {})
    assert list(tmp_path.iterdir()) == []


def test_the_index_holds_a_checksum_per_block(tmp_path: Path, blocks: tuple) -> None:
    build_store(tmp_path / "store", blocks[0], {})
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    assert all(len(block["sha256"]) == 64 and block["nbytes"] % 64 == 0 for block in index["blocks"])
