"""Which parts a packed tensor has, of which dtype and shape, before any of its bytes exist.

Knows the kinds of `engine/packed.py`. A store is laid out on disk from these descriptions alone, so that it can be
written a few rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pocketft.engine.packed import packed_codes_shape

NF4_GROUP = 64

_DATA = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Layout:
    """How one tensor is packed. `super_size` weights share a float16 scale where scales have two levels."""

    kind: str
    group_size: int = 0
    zero_point: int = 0
    has_minimum: bool = False
    signed: bool = False  # affine8 codes are int8
    super_size: int = 0
    signed_scales: bool = False

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Part name -> dtype and shape, for a tensor of `shape`."""
        if self.kind in _DATA:
            return {"data": (_DATA[self.kind], shape)}
        rows, columns = shape
        codes = packed_codes_shape(self.kind, shape, self.group_size)
        if self.kind == "int8":
            return {"codes": (torch.int8, codes), "scale": (torch.float32, (rows, 1))}
        if self.kind == "nf4":
            return {"codes": (torch.uint8, codes), "absmax": (torch.float32, (rows, columns // self.group_size))}
        groups = (rows, columns // self.group_size)
        scales = (rows, columns // self.super_size) if self.super_size else groups
        parts = {"codes": (torch.int8 if self.signed else torch.uint8, codes), "scale": (torch.float16, scales)}
        if self.has_minimum:
            parts["minimum"] = (torch.float16, scales)
        if self.super_size:
            parts["scale_codes"] = (torch.int8 if self.signed_scales else torch.uint8, groups)
            if self.has_minimum:
                parts["minimum_codes"] = (torch.uint8, groups)
        return parts
