"""What the native module is handed: tensors where they lie, as it reads them, and spans."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from dsv4.model.span import BlockSpan, Span
from dsv4.ops import native


class UnsupportedError(ValueError):
    """What the native module cannot run."""


def matrix(module: ModuleType, weight: Tensor, scale: Tensor | None = None) -> Any:
    """A stored weight as the native module sees it: its bytes, not a copy."""
    data = weight.detach().contiguous()
    rows, columns = data.shape
    raw = data.view(torch.uint8)
    if data.dtype is torch.int8:
        if scale is None or scale.dtype is not torch.float8_e8m0fnu:
            raise UnsupportedError("an FP4 weight has scales that are no E8M0 bytes")
        return module.Matrix("fp4", rows, 2 * columns, raw, scale.contiguous().view(torch.uint8))
    if data.dtype is torch.float8_e4m3fn:
        assert scale is not None
        factors = scale.float().contiguous()
        if not _are_usual(factors):
            raise UnsupportedError("an FP8 weight has scales that are no powers of two near 1")
        return module.Matrix("fp8", rows, columns, raw, None, factors)
    names = {torch.bfloat16: "bf16", torch.float32: "f32"}
    if data.dtype not in names:
        raise UnsupportedError(f"a weight is {data.dtype}")
    return module.Matrix(names[data.dtype], rows, columns, raw)


def _are_usual(scales: Tensor) -> bool:
    """Whether all are powers of two, 2^-64 … 2^64: exponents can be added without overflow."""
    raw = scales.view(torch.int32)
    exponents = (raw >> 23) - 127  # from 129 on where it is infinite or NaN, negative if below 0
    return not ((raw & 0x7FFFFF).any() or (exponents.abs() > 64).any())


def floats(tensor: Tensor) -> Tensor:
    """Its values in float32, contiguous: itself where it is that."""
    return tensor.detach().float().contiguous()


def imported(module: ModuleType, tensor: Tensor) -> Any:
    """A tensor of any kind as the native module sees it, which looks at its kind at each call."""
    return module.Tensor(to_dlpack(tensor.detach()))


def places(tensors: Iterable[Tensor]) -> list[int]:
    """Their addresses."""
    return [tensor.data_ptr() for tensor in tensors]


CALL = ("call",)  # Span.once


class Call:
    """What one forward hands to its layers, as the native module reads it."""

    def __init__(self, module: ModuleType, span: Span):
        native.use_threads(module)
        slots = [place.slot for place in span.places]
        tables = [place.pages for place in span.places]
        known = [place.known for place in span.places]
        block = isinstance(span, BlockSpan)
        lengths = [span.n] * len(span.starts) if block else span.lengths
        self.span = module.Span(span.n, span.starts, lengths, slots, tables, known, block)
        self.module = module
        self.x: Tensor | None = None
        self.ids: Tensor | None = None
        self.streams: Any = None
        self.tokens: Any = None

    def take(self, x: Tensor) -> Tensor:
        """Streams, which the layers change in place from now on; a copy where they must be."""
        self.x = x = x.contiguous()
        self.streams = imported(self.module, x)
        return x

    def take_ids(self, ids: Tensor) -> None:
        """Token ids."""
        self.ids, self.tokens = ids, imported(self.module, ids.long().contiguous())
