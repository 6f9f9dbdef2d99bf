"""Which form a checkpoint's linears have, and the config of the same model in another form.

dense     experts          config
fp8       fp4, fp8, bf16   quantization_config, expert_dtype; scale_fmt if the scales are E8M0
bf16      fp4, fp8         the same, modules_to_not_convert names the dense linears
bf16      bf16             no quantization_config, torch_dtype bfloat16
f32       f32              no quantization_config, torch_dtype float32: kept, never made
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.layout import (
    DENSE_MODULES,
    DTYPE_NAMES,
    Role,
    dense_modules,
    scale_name,
    stored_dtype,
    weights,
)
from dsv4.checkpoint.reader import Checkpoint
from dsv4.config import QUANTIZATION, Config

FORMS = {"I8": "fp4", "F8_E4M3": "fp8", "BF16": "bf16", "F32": "f32"}
EXPERT_FORMS = ("fp4", "fp8", "bf16")
DENSE_FORMS = ("fp8", "bf16")


def target_config(checkpoint: Checkpoint, experts: str | None, dense: str | None) -> Config:
    """The config of `checkpoint` with its linears in the named forms; None keeps what is stored.

    Raises: CheckpointError for a form that does not exist or is stored but cannot be kept.
    """
    for option, form, known in (
        ("experts", experts, EXPERT_FORMS),
        ("dense", dense, DENSE_FORMS),
    ):
        if form is not None and form not in known:
            raise CheckpointError(f"{option} = {form!r}: must be {', '.join(known)}")
    stored = {role: _stored(checkpoint, role) for role in (Role.EXPERT, Role.DENSE)}
    experts = experts or _one(stored[Role.EXPERT], "--experts")
    dense = dense or _one(stored[Role.DENSE], "--dense")
    config = checkpoint.config
    if experts == dense and dense in ("bf16", "f32"):
        name = "bfloat16" if dense == "bf16" else "float32"
        return config.replace(quantization_config=None, expert_dtype=None, torch_dtype=name)
    for option, form, known in (
        ("--experts", experts, EXPERT_FORMS),
        ("--dense", dense, DENSE_FORMS),
    ):
        if form not in known:
            raise CheckpointError(
                f"{option[2:]} weights are stored as {form}, which cannot stand beside the form "
                f"asked for: name {option} {' or '.join(known)}"
            )
    quantization: dict[str, Any] = dict(config.quantization_config or QUANTIZATION)
    named = quantization.pop("modules_to_not_convert", None) or ()
    unconverted = [module for module in named if module not in DENSE_MODULES]
    unconverted += dense_modules(config) if dense == "bf16" else ()
    if unconverted:
        quantization["modules_to_not_convert"] = unconverted
    quantization.pop("scale_fmt", None)
    if not _float_scales(checkpoint):
        quantization["scale_fmt"] = QUANTIZATION["scale_fmt"]
    return config.replace(
        quantization_config=quantization, expert_dtype=experts, torch_dtype="bfloat16"
    )


def form_of(config: Config, role: Role) -> str:
    """fp4, fp8, bf16 or f32: the form in which a checkpoint of `config` holds weights of a role."""
    return FORMS[DTYPE_NAMES[stored_dtype(config, role)]]


def _stored(checkpoint: Checkpoint, role: Role) -> Counter[str]:
    """How many weights of a role are stored in each form."""
    names = (name for name, spec in weights(checkpoint.config).items() if spec.role is role)
    return Counter(FORMS[checkpoint.tensors[name].dtype] for name in names)


def _one(forms: Counter[str], option: str) -> str:
    if len(forms) > 1:
        counts = ", ".join(f"{count:,} as {form}" for form, count in sorted(forms.items()))
        raise CheckpointError(f"the weights that {option} means are stored {counts}: name {option}")
    return next(iter(forms))


def _float_scales(checkpoint: Checkpoint) -> bool:
    """Whether any dense FP8 linear has F32 scales."""
    return any(
        checkpoint.tensors[name].dtype == "F8_E4M3"
        and checkpoint.tensors[scale_name(name)].dtype == "F32"
        for name, spec in weights(checkpoint.config).items()
        if spec.role is Role.DENSE
    )
