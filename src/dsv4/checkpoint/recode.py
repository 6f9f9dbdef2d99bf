"""One weight → the tensors that a file stores, from floats or from another stored form.

    encode   floats → the form that the config names; rounds as the form's rule says
    recode   stored form → the form that the config names; says which blocks were rounded

Where both forms are one the bytes are copied. FP4 becomes FP8 by re-blocking (quant/reblock.py).
All else goes through float32, which holds every value of every form, and is compared afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.layout import WeightSpec, scale_dtype, scale_name, stored_dtype
from dsv4.checkpoint.reader import Checkpoint
from dsv4.config import Config
from dsv4.quant import fp4, fp8
from dsv4.quant.fp8 import is_nan_code
from dsv4.quant.reblock import as_rounded, changed_blocks, fold
from dsv4.quant.scales import check_finite, check_scale

Tensors = dict[str, Tensor]

LISTED = 20  # blocks in a message; the error's `blocks` holds all of them
UNITS = {torch.int8: "FP4 groups of 32", torch.float8_e4m3fn: "FP8 blocks of 128×128"}
BLOCKS = {torch.int8: (1, fp4.BLOCK), torch.float8_e4m3fn: (fp8.BLOCK, fp8.BLOCK)}


class RoundingError(CheckpointError):
    """A weight that its new form cannot hold exactly. `blocks`: (row, column) of what changes."""

    def __init__(self, name: str, changed: Tensor, unit: str):
        self.name, self.blocks = name, [tuple(at) for at in changed.nonzero().tolist()]
        places = ", ".join(str(block) for block in self.blocks[:LISTED])
        rest = len(self.blocks) - LISTED
        more = f" and {rest:,} more" if rest > 0 else ""
        super().__init__(
            f"{name} cannot be held exactly: {len(self.blocks):,} of its {changed.numel():,} "
            f"{unit} would be rounded, (row, column) {places}{more}; allow rounding "
            f"(--allow-rounding), or choose bf16 or the form that it has"
        )


@dataclass(frozen=True)
class Recoded:
    """The tensors of one weight; `changed` [rows, columns] marks the blocks that were rounded."""

    tensors: Tensors
    changed: Tensor
    unit: str

    @property
    def rounded(self) -> int:
        """How many blocks hold other values than before."""
        return int(self.changed.sum())


def encode(name: str, value: Tensor, spec: WeightSpec, config: Config) -> Tensors:
    """One weight as the tensors that a file stores: itself, or its packed form and its scale.

    Raises: CheckpointError, naming the tensor, for NaN, infinity, or ids that are no integers.
    """
    dtype = stored_dtype(config, spec.role)
    try:
        if dtype in BLOCKS:
            packed, scale = (fp4 if dtype is torch.int8 else fp8).quantize(value, name)
            scale = scale.to(scale_dtype(config, spec.role))
            return {name: packed.cpu(), scale_name(name): scale.cpu()}
        if (dtype is torch.int64) == value.is_floating_point():
            raise ValueError(f"{name} is {value.dtype}, which cannot be stored as {dtype}")
        stored = value.to("cpu", dtype).contiguous()
        if dtype is not torch.int64:
            check_finite(stored, name)
        return {name: stored}
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def recode(checkpoint: Checkpoint, name: str, spec: WeightSpec, config: Config) -> Recoded:
    """The weight `name` of `checkpoint` in the form that `config` gives it.

    Raises: CheckpointError, naming the tensor, for NaN, infinity or a bad scale.
    """
    dtype = stored_dtype(config, spec.role)
    unit = UNITS.get(dtype, "rows")
    copied = _copied(checkpoint, name, spec, config)
    if copied is not None:
        return Recoded(copied, torch.zeros(1, 1, dtype=torch.bool), unit)
    if checkpoint.tensors[name].dtype == "I8" and dtype is torch.float8_e4m3fn:
        scale = _cast(checkpoint.view(scale_name(name)), torch.float8_e8m0fnu)
        if scale is not None:
            return _reblocked(checkpoint, name, scale, scale_dtype(config, spec.role))
    value = checkpoint.read_tensor(name)  # float32
    tensors = encode(name, value, spec, config)
    changed = _changed(name, value, tensors)
    if dtype is torch.int8 and not changed.any():  # FP4 that comes back from another form
        both = as_rounded(tensors[name], tensors[scale_name(name)])
        tensors = dict(zip((name, scale_name(name)), both, strict=True))
    return Recoded(tensors, changed, unit)


def _copied(checkpoint: Checkpoint, name: str, spec: WeightSpec, config: Config) -> Tensors | None:
    """The stored bytes, if they have the wanted form; scales may change their dtype exactly."""
    stored = checkpoint.view(name)
    if stored.dtype is not stored_dtype(config, spec.role):
        return None
    if stored.dtype not in BLOCKS:
        checkpoint.check_values(name, stored)
        return {name: stored}
    beside = checkpoint.view(scale_name(name))
    _check_codes(checkpoint, name, stored, beside)
    scale = _cast(beside, scale_dtype(config, spec.role))
    return None if scale is None else {name: stored, scale_name(name): scale}


def _check_codes(checkpoint: Checkpoint, name: str, weight: Tensor, scale: Tensor) -> None:
    """What dequantising would refuse is not copied either: NaN codes, scales that are no scale."""
    try:
        check_scale(scale, tuple(scale.shape), name)
        if weight.dtype is torch.float8_e4m3fn and bool(is_nan_code(weight).any()):
            raise ValueError(f"{name} holds NaN or infinity: only finite values can be used")
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def _cast(scale: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Scales in the other dtype of scales, None if it cannot hold them (NaN among them)."""
    if scale.dtype is dtype:
        return scale
    cast = scale.to(dtype)
    return cast if torch.equal(cast.float(), scale.float()) else None


def _reblocked(checkpoint: Checkpoint, name: str, scale: Tensor, scales: torch.dtype) -> Recoded:
    """FP4 → FP8: blocks that fit are folded, the others rounded from their float32 values."""
    packed = checkpoint.view(name)
    try:
        weight, folded, fits = fold(packed, scale, name)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    unit, changed = UNITS[weight.dtype], ~fits
    if changed.any():
        value = checkpoint.read_tensor(name)
        rounded, coarse = fp8.quantize(value, name)
        spread = fits.repeat_interleave(fp8.BLOCK, 0).repeat_interleave(fp8.BLOCK, 1)
        spread = spread[: value.shape[0], : value.shape[1]]
        weight = _where(spread, weight, rounded)
        folded = _where(fits, folded, coarse)
        held = fp8.dequantize(weight, folded, name=name)
        changed = changed_blocks(value, held, BLOCKS[weight.dtype])
    return Recoded({name: weight, scale_name(name): folded.to(scales)}, changed, unit)


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where for the 8-bit float dtypes, which it does not know."""
    return torch.where(mask, yes.view(torch.uint8), no.view(torch.uint8)).view(yes.dtype)


def _changed(name: str, value: Tensor, tensors: Tensors) -> Tensor:
    """Which blocks (of a plain form, which rows) of `value` [.., in] the tensors do not hold."""
    stored = tensors[name]
    if stored.dtype not in BLOCKS:
        return (stored != value).reshape(-1, value.shape[-1]).any(1, keepdim=True)
    quant = fp4 if stored.dtype is torch.int8 else fp8
    held = quant.dequantize(stored, tensors[scale_name(name)], name=name)
    return changed_blocks(value, held, BLOCKS[stored.dtype])
