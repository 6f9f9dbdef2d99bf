"""config.json as transformers 5 writes it → the release's words.

    layer_types, compress_rates         → compress_ratios (without entries for drafts)
    mlp_layer_types                     → num_hash_layers
    partial_rotary_factor · head_dim    → qk_rope_head_dim
    rope_parameters.main, .compress     → rope_theta, compress_rope_theta, rope_scaling
    dtype                               → torch_dtype
    quantization_config.expert_dtype    → expert_dtype

Where both words stand they must agree; what has no counterpart in the release's words is refused
by name. transformers 5 has no drafts: it drops their tensors and keeps their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4.config.base import (
    ConfigError,
    LayerKind,
    broken,
    is_integer,
    is_number,
    kinds_of,
    named_ratios,
)

TYPES = tuple(kind.value for kind in LayerKind)
MLP_TYPES = ("hash_moe", "moe")
OLD_RATES = {"compress_rate_csa": LayerKind.CSA, "compress_rate_hca": LayerKind.HCA}
LARGEST = 1 << 16  # the largest rate
YARN_NUMBERS = ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings")


def is_resaved(values: Mapping[str, Any]) -> bool:
    """Whether an object is in transformers' words, so that its drafts' fields mean nothing."""
    return values.get("compress_ratios") is None and values.get("layer_types") is not None


def in_released_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same config without transformers 5's words. Raises ConfigError."""
    found = dict(values)
    _dtype(found)
    _ratios(found)
    _hash_layers(found)
    _rotary_channels(found)
    _rope(found)
    return found


def _settle(found: dict[str, Any], name: str, value: Any, source: str) -> None:
    """Set a field, unless the object already says another value of it; null says none."""
    if found.get(name) is not None and found[name] != value:
        raise broken(name, found[name], f"{source} says {value!r}: make them agree")
    found[name] = value


def _dtype(found: dict[str, Any]) -> None:
    dtype = found.pop("dtype", None)
    if dtype is not None:
        if not isinstance(dtype, str):
            raise broken("dtype", dtype, "must be a name such as bfloat16")
        _settle(found, "torch_dtype", dtype.removeprefix("torch."), "dtype")
    quantization = found.get("quantization_config")
    if isinstance(quantization, Mapping) and "expert_dtype" in quantization:
        quantization = dict(quantization)
        moved = quantization.pop("expert_dtype")  # the tensors decide, should the two disagree
        found["quantization_config"] = quantization
        found.setdefault("expert_dtype", moved)


def _names(found: dict[str, Any], field: str, known: tuple[str, ...]) -> list[str] | None:
    """A list of one known name for each layer, None if it is absent."""
    names = found.get(field)
    if names is None:
        found.pop(field, None)
        return None
    if not isinstance(names, list | tuple):
        raise broken(field, names, "must be a list")
    for number, name in enumerate(names):
        if name not in known:
            raise broken(f"{field}[{number}]", name, f"must be one of {', '.join(known)}")
    layers = found.get("num_hidden_layers")
    surplus = names[layers:] if is_integer(layers) else ()
    if is_integer(layers) and (len(names) < layers or any(name != known[0] for name in surplus)):
        raise ConfigError(f"{field} has {len(names)} entries, num_hidden_layers is {layers}")
    return list(names[:layers] if is_integer(layers) else names)


def _ratios(found: dict[str, Any]) -> None:
    rates = _rates(found)
    types = _names(found, "layer_types", TYPES)
    ratios = found.get("compress_ratios")
    if types is None:
        used = ratios if isinstance(ratios, list | tuple) else ()
        strange = rates and [r for r in used if is_integer(r) and r and r not in rates.values()]
        if strange:
            raise broken("compress_ratios", ratios, f"compress_rates says {rates!r}")
        return
    if ratios is None:
        absent = [name for name in types if name != TYPES[0] and name not in rates]
        if absent:  # the tensors may tell
            return
        ratios = [rates.get(name, 0) for name in types]
        found["compress_ratios"] = ratios
    elif isinstance(ratios, list | tuple):
        for number, (name, ratio) in enumerate(zip(types, ratios, strict=False)):
            if ratio != rates.get(name, ratio):
                raise broken(f"compress_ratios[{number}]", ratio, f"compress_rates says {rates!r}")
    if _tell(types, ratios):
        del found["layer_types"]


def _tell(types: list[str], ratios: Any) -> bool:
    """Whether the ratios alone name the same kinds."""
    try:
        ratios = tuple(ratios[: len(types)])
        csa, hca = named_ratios(ratios)
    except (ConfigError, TypeError):
        return False
    return set(ratios) <= {0, csa, hca} and [kind.value for kind in kinds_of(ratios)] == types


def _rates(found: dict[str, Any]) -> dict[str, int]:
    """Compression rate by layer type."""
    rates = found.pop("compress_rates", None)
    if rates is None:
        rates = {}
    if not isinstance(rates, Mapping):
        raise broken("compress_rates", rates, "must be an object of rates by layer type")
    rates = dict(rates)
    for field, kind in OLD_RATES.items():
        if field in found:
            rates[kind.value] = found.pop(field)
    for name, rate in rates.items():
        if name not in TYPES:
            raise broken("compress_rates", name, f"a layer type is one of {', '.join(TYPES)}")
        if not is_integer(rate) or not (rate == 0 if name == TYPES[0] else 2 <= rate <= LARGEST):
            rule = f"must be an integer from 2 to {LARGEST:,}, or 0 for sliding_attention"
            raise broken(f"compress_rates.{name}", rate, rule)
    return rates


def _hash_layers(found: dict[str, Any]) -> None:
    names = _names(found, "mlp_layer_types", MLP_TYPES[::-1])
    if names is None:
        return
    del found["mlp_layer_types"]
    hashed = names.count(MLP_TYPES[0])
    if MLP_TYPES[0] in names[hashed:]:
        raise broken("mlp_layer_types", names, "the hash_moe layers must be the first ones")
    if is_integer(found.get("num_hash_layers")):  # it may exceed the layers
        hashed = max(hashed, found["num_hash_layers"] if hashed == len(names) else hashed)
    _settle(found, "num_hash_layers", hashed, "mlp_layer_types")


def _rotary_channels(found: dict[str, Any]) -> None:
    factor = found.pop("partial_rotary_factor", None)
    if factor is None:
        return
    head_dim = found.get("head_dim")
    if not is_number(factor) or not 0 < factor <= 1:
        raise broken("partial_rotary_factor", factor, "must be a number above 0 and at most 1")
    if not is_integer(head_dim) or not 0 < head_dim < 1 << 20:
        return  # its own rule speaks
    channels = round(head_dim * factor)
    if abs(channels - head_dim * factor) > 1e-3:
        rule = f"times head_dim ({head_dim}) must be a whole number of channels"
        raise broken("partial_rotary_factor", factor, rule)
    _settle(found, "qk_rope_head_dim", channels, "partial_rotary_factor")


# ---- rope ------------------------------------------------------------------------------------

PARTS = {"main": "rope_theta", "compress": "compress_rope_theta"}


def _rope(found: dict[str, Any]) -> None:
    rope = found.pop("rope_parameters", None)
    if rope is None or rope == {}:
        return
    if not isinstance(rope, Mapping):
        raise broken("rope_parameters", rope, "must be an object")
    if not PARTS.keys() & rope.keys():  # one set of numbers: that of the compressed layers
        theta = rope.get("rope_theta")
        if theta not in (None, found.get("compress_rope_theta")):
            _settle(found, "rope_theta", theta, "rope_parameters.rope_theta")
        _yarn(found, "rope_parameters", rope)
        return
    if rope.keys() != PARTS.keys():
        names = ", ".join(sorted(map(str, rope)))
        raise ConfigError(f"rope_parameters holds {names}: it must hold main and compress")
    for name, field in PARTS.items():
        part, source = rope[name], f"rope_parameters.{name}"
        if not isinstance(part, Mapping):
            raise broken(source, part, "must be an object")
        if part.get("rope_theta") is not None:
            _settle(found, field, part["rope_theta"], f"{source}.rope_theta")
        if part.get("partial_rotary_factor") is not None:
            given = {**found, "partial_rotary_factor": part["partial_rotary_factor"]}
            _rotary_channels(given)
            found.update(given)
    _plain(rope["main"], "rope_parameters.main", "the layers of ratio 0 have no YaRN")
    _yarn(found, "rope_parameters.compress", rope["compress"])


def _numbers(part: Mapping[str, Any]) -> dict[str, Any]:
    """What says how frequencies are interpolated."""
    others = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    return {key: value for key, value in part.items() if key not in others}


def _plain(part: Mapping[str, Any], source: str, why: str) -> None:
    kind = part.get("rope_type", part.get("type", "default"))
    if kind != "default" or _numbers(part):
        raise broken(source, dict(part), f"{why}: rope_type must be default, without numbers")


def _yarn(found: dict[str, Any], source: str, part: Mapping[str, Any]) -> None:
    """rope_scaling of the compressed layers; null only if the type is said to be default."""
    kind = part.get("rope_type", part.get("type"))
    if kind == "default":
        _plain(part, source, "it scales nothing")
        _settle(found, "rope_scaling", None, source)
        return
    if kind is None and not _numbers(part):
        return  # a theta alone
    if kind != "yarn":
        raise broken(f"{source}.rope_type", kind, "must be yarn, or default for none")
    scaling = {"type": "yarn", **_numbers(part)}
    for name, only in (("attention_factor", 1), ("truncate", True)):
        if scaling.pop(name, only) not in (only, None):
            raise broken(f"{source}.{name}", part[name], f"must be {only}")
    before = found.get("rope_scaling")
    if isinstance(before, Mapping) and all(before.get(k) == scaling.get(k) for k in YARN_NUMBERS):
        return
    _settle(found, "rope_scaling", scaling, source)
