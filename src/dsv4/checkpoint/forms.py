"""Which form a checkpoint's linears have, and the config of the same model in another form.

dense     experts          config
fp8       fp4, fp8, bf16   quantization_config, expert_dtype; scale_fmt if the scales are E8M0,
                           expert_scale_fmt (dsv4's own) if those of FP8 experts are too
bf16      fp4, fp8         the same, modules_to_not_convert names the dense linears
bf16      bf16             no quantization_config, torch_dtype bfloat16
f32       f32              no quantization_config, torch_dtype float32: kept, never made
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.layout import (
    DENSE_MODULES,
    DTYPE_NAMES,
    Role,
    dense_modules,
    scale_name,
    stored_dtype,
)
from dsv4.config import QUANTIZATION, Config

if TYPE_CHECKING:
    from dsv4.checkpoint.reader import Checkpoint, StoredTensor

FORMS = {"I8": "fp4", "F8_E4M3": "fp8", "BF16": "bf16", "F32": "f32"}
EXPERT_FORMS = ("fp4", "fp8", "bf16")
DENSE_FORMS = ("fp8", "bf16")
EXPONENTS = QUANTIZATION["scale_fmt"]


class Stored:
    """The forms in which the weights of a role are stored, and the dtypes of their FP8 scales."""

    def __init__(self, tensors: Mapping[str, StoredTensor], role: Role):
        self.forms: Counter[str] = Counter()
        self.scales: set[str] = set()
        for name, tensor in tensors.items():
            if _role(name) is not role or tensor.dtype not in FORMS:
                continue
            self.forms[FORMS[tensor.dtype]] += 1
            if tensor.dtype == "F8_E4M3" and scale_name(name) in tensors:
                self.scales.add(tensors[scale_name(name)].dtype)

    @property
    def one(self) -> str | None:
        """The form of all of them, None if they are mixed or not there."""
        return next(iter(self.forms)) if len(self.forms) == 1 else None


def as_stored(config: Config, tensors: Mapping[str, StoredTensor]) -> Config:
    """The config of a checkpoint in the forms that its tensors have, whatever it promised."""
    experts, dense = (Stored(tensors, role) for role in (Role.EXPERT, Role.DENSE))
    forms = experts.one, dense.one
    if forms[0] == forms[1] and forms[0] in ("bf16", "f32"):
        return _unquantised(config, forms[0])
    if not {"fp4", "fp8"} & (experts.forms.keys() | dense.forms.keys()):
        return config
    return _quantised(
        config,
        forms[0] if forms[0] in EXPERT_FORMS else config.expert_dtype,
        forms[1] if forms[1] in DENSE_FORMS else None,
        exponents=None if not dense.scales else dense.scales == {"F8_E8M0"},
        expert_exponents=experts.scales == {"F8_E8M0"},
    )


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
    stored = {role: Stored(checkpoint.tensors, role) for role in (Role.EXPERT, Role.DENSE)}
    scales = stored[Role.EXPERT].scales if experts is None else set()
    experts = experts or _one(stored[Role.EXPERT].forms, "--experts")
    dense = dense or _one(stored[Role.DENSE].forms, "--dense")
    if experts == dense and dense in ("bf16", "f32"):
        return _unquantised(checkpoint.config, dense)
    for option, form, known in (
        ("--experts", experts, EXPERT_FORMS),
        ("--dense", dense, DENSE_FORMS),
    ):
        if form not in known:
            raise CheckpointError(
                f"{option[2:]} weights are stored as {form}, which cannot stand beside the form "
                f"asked for: name {option} {' or '.join(known)}"
            )
    return _quantised(
        checkpoint.config,
        experts,
        dense,
        exponents="F32" not in stored[Role.DENSE].scales,
        expert_exponents=scales == {"F8_E8M0"},
    )


def form_of(config: Config, role: Role) -> str:
    """fp4, fp8, bf16 or f32: the form in which a checkpoint of `config` holds weights of a role."""
    return FORMS[DTYPE_NAMES[stored_dtype(config, role)]]


def _unquantised(config: Config, form: str) -> Config:
    dtype = "bfloat16" if form == "bf16" else "float32"
    return config.replace(quantization_config=None, expert_dtype=None, torch_dtype=dtype)


def _quantised(
    config: Config,
    experts: str | None,
    dense: str | None,
    *,
    exponents: bool | None,
    expert_exponents: bool,
) -> Config:
    """`exponents`: whether FP8 scales are E8M0; None keeps what the config says, as does `dense`
    None.
    """
    quantization: dict[str, Any] = dict(config.quantization_config or QUANTIZATION)
    if dense is not None:
        named = quantization.pop("modules_to_not_convert", None) or ()
        unconverted = [module for module in named if module not in DENSE_MODULES]
        unconverted += dense_modules(config) if dense == "bf16" else ()
        if unconverted:
            quantization["modules_to_not_convert"] = unconverted
    for key, holds in (("scale_fmt", exponents), ("expert_scale_fmt", expert_exponents)):
        if holds is not None:
            quantization.pop(key, None)
        if holds and not (key == "expert_scale_fmt" and experts != "fp8"):
            quantization[key] = EXPONENTS
    return config.replace(
        quantization_config=quantization, expert_dtype=experts, torch_dtype="bfloat16"
    )


def _role(name: str) -> Role | None:
    """The role of a linear by its released name, None for everything else."""
    if not name.endswith(".weight"):
        return None
    if ".ffn.experts." in name:
        return Role.EXPERT
    return Role.DENSE if name.removesuffix(".weight").endswith(DENSE_MODULES) else None


def _one(forms: Counter[str], option: str) -> str:
    if len(forms) > 1:
        counts = ", ".join(f"{count:,} as {form}" for form, count in sorted(forms.items()))
        raise CheckpointError(f"the weights that {option} means are stored {counts}: name {option}")
    return next(iter(forms))
