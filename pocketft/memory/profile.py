"""What this machine can do, measured once in under three seconds and cached: the figures that plans are made with.

Knows torch and a cache file; nothing of models.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pocketft import files
from pocketft.memory.processor import processor

_FORMAT = 4
_TOKENS = 512
_WIDTH = 1024
_DISK_BYTES = 64 << 20
_READ_BYTES = 4 << 20
_WRITE_BYTES = 1 << 20
_USUAL_DISK_GB_PER_S = 0.8  # a plain SSD, where nothing can be written to find out


@dataclass(frozen=True)
class MachineProfile:
    """Rates of one machine with one torch and one number of threads."""

    cores: int
    bf16_gflops: float
    fp32_gflops: float
    dequantize_ns_per_weight: float
    moved_gb_per_s: float  # by operations on large tensors: what they read and write
    operation_us: float  # of an operation so small that only its fixed cost is left
    disk_gb_per_s: float

    @property
    def compute_dtype(self) -> str:
        """bfloat16 where products are faster in it, as with AVX512-BF16 and AMX; elsewhere it is emulated and slow."""
        return "bfloat16" if self.bf16_gflops > 1.2 * self.fp32_gflops else "float32"

    def gflops(self, dtype: str) -> float:
        return self.bf16_gflops if dtype == "bfloat16" else self.fp32_gflops


def machine_profile(cache_folder: Path, refresh: bool = False) -> MachineProfile:
    """From the cache where it fits this machine, else measured and cached, as with `refresh`. An unwritable cache is no
    reason to stop.
    """
    path = cache_folder / "machine.json"
    key = _machine_key()
    if not refresh and (known := _cached(path, key)) is not None:
        return known
    profile = _measure(path.parent)
    with suppress(OSError, files.StorageError):  # measured again next time
        files.write_json(path, {"key": key, "profile": asdict(profile)})
    return profile


def _machine_key() -> str:
    """A cache may be carried to another machine, in a home folder or an image: without bfloat16, plans that count on it
    would run at a third of the speed.
    """
    name, features = processor()
    parts = (
        _FORMAT,
        platform.machine(),
        name,
        f"{zlib.crc32(' '.join(sorted(features)).encode()):08x}",
        os.cpu_count(),
        torch.get_num_threads(),
        torch.__version__,
    )
    return "|".join(str(part) for part in parts)


def _cached(path: Path, key: str) -> MachineProfile | None:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return MachineProfile(**saved["profile"]) if saved["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure(folder: Path) -> MachineProfile:
    from pocketft.engine.packed import PackedTensor, dequantize

    weights = PackedTensor(
        "affine4",
        (_WIDTH, _WIDTH),
        {
            "codes": torch.randint(0, 255, (_WIDTH, _WIDTH // 2), dtype=torch.uint8),
            "scale": torch.rand(_WIDTH, _WIDTH // 32).half(),
        },
        group_size=32,
        zero_point=8,
    )
    out = torch.empty(_WIDTH, _WIDTH, dtype=torch.bfloat16)
    return MachineProfile(
        cores=torch.get_num_threads(),
        bf16_gflops=_product_gflops(torch.bfloat16),
        fp32_gflops=_product_gflops(torch.float32),
        dequantize_ns_per_weight=_best_seconds(lambda: dequantize(weights, out)) / _WIDTH**2 * 1e9,
        moved_gb_per_s=_moved_gb_per_s(),
        operation_us=_operation_us(),
        disk_gb_per_s=_disk_gb_per_s(folder),
    )


def _product_gflops(dtype: torch.dtype) -> float:
    x = torch.randn(_TOKENS, _WIDTH).to(dtype)
    w = torch.randn(_WIDTH, _WIDTH).to(dtype)
    seconds = _best_seconds(lambda: torch.nn.functional.linear(x, w))
    return 2 * _TOKENS * _WIDTH * _WIDTH / seconds / 1e9


def _moved_gb_per_s() -> float:
    """Of operations between products: an activation, a product of elements, a softmax, a copy."""
    x = torch.randn(4 * _TOKENS, _WIDTH, dtype=torch.bfloat16)
    out = torch.empty_like(x)

    y = torch.empty_like(x)

    def between_products() -> None:
        torch.sigmoid(x, out=y)
        torch.mul(x, y, out=out)
        torch.softmax(out, dim=-1, out=y)
        out.copy_(y)

    return (2 + 3 + 2 + 2) * x.nbytes / _best_seconds(between_products) / 1e9


def _operation_us() -> float:
    """Forward and backward through 16 operations on 32,768 numbers, and their sum: enough for several threads, hardly
    any work."""
    x = torch.randn(_TOKENS, 64, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(_TOKENS, 64, dtype=torch.bfloat16)

    def chain() -> None:
        y = x
        for _ in range(8):
            y = torch.nn.functional.silu(y * w)
        torch.autograd.grad(y.sum(), x)  # without a gradient given, which sympy would be imported for

    return _best_seconds(chain) / 34 * 1e6


def _disk_gb_per_s(folder: Path) -> float:
    """Of a large read that does not come from memory, where the system can be told to forget what it has written."""
    part = os.urandom(_WRITE_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for _ in range(_DISK_BYTES // _WRITE_BYTES):
                file.write(part)
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            while file.read(_READ_BYTES):
                pass
            return float(_DISK_BYTES / (time.perf_counter() - start) / 1e9)
    except OSError:
        return _USUAL_DISK_GB_PER_S


def _best_seconds(work: Callable[[], object], budget_s: float = 0.25) -> float:
    """The shortest of several runs within the budget, the first left out: other programs only ever add time."""
    work()
    best, end = float("inf"), time.perf_counter() + budget_s
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best if best < float("inf") else budget_s
