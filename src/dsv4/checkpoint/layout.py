"""The released layout, tensor by tensor, from a Config alone.

A *weight* is what the model computes with: a released name, a shape and a role. A *tensor* is what
a file stores: the weight itself, or its packed bytes and, beside them, `.scale`. The role and the
config decide the dtype:

    role      quantization_config set               quantization_config absent
    PLAIN     BF16                                  torch_dtype
    FLOAT32   F32                                   F32
    INDEX     I64                                   I64
    DENSE     FP8 block; BF16, if named (below)     torch_dtype
    EXPERT    expert_dtype: FP4 or FP8 block, BF16  torch_dtype

Dense linears stay BF16 beside quantised experts where `quantization_config.modules_to_not_convert`
names `dense_modules`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from dsv4.config import Config, ConfigError, LayerKind
from dsv4.quant import fp4, fp8

Shape = tuple[int, ...]


DTYPE_NAMES = {  # as a safetensors header calls them, in the order in which a file holds them
    torch.int64: "I64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}
BLOCK_MODULES = (
    *(f"attn.{name}" for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "indexer.wq_b")),
    *(f"ffn.shared_experts.{name}" for name in ("w1", "w2", "w3")),
)
MTP_MODULES, DSPARK_MODULES = ("e_proj", "h_proj"), ("main_proj",)
DENSE_MODULES = (*BLOCK_MODULES, *MTP_MODULES, *DSPARK_MODULES)  # of any checkpoint


class Role(Enum):
    """What a weight is for, which decides how the release stores it."""

    PLAIN = "norms, embedding, head, router, compressor"
    FLOAT32 = "mHC, sinks, position biases, balance biases"
    INDEX = "the table of hash routing"
    DENSE = "linears outside the routed experts"
    EXPERT = "routed experts"


@dataclass(frozen=True)
class WeightSpec:
    """One weight: its logical shape ([out, in] for a linear), its role and its shard (from 0)."""

    shape: Shape
    role: Role
    shard: int


@dataclass(frozen=True)
class TensorSpec:
    """One stored tensor: the shape and dtype in the file, and the number of its shard (from 0)."""

    shape: Shape
    dtype: torch.dtype
    shard: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in its shard."""
        return math.prod(self.shape) * self.dtype.itemsize


def scale_name(name: str) -> str:
    """`x.weight` → `x.scale`."""
    return name.removesuffix(".weight") + ".scale"


def shard_count(config: Config) -> int:
    """One shard for the embedding, one for each layer and each block of the draft, one for the
    output head: 46 for V4-Flash of April, 48 for Flash-0731, as released."""
    return config.num_hidden_layers + config.draft_stages + 2


def shard_file(shard: int, count: int) -> str:
    """The file name of shard `shard` (from 0) out of `count`."""
    return f"model-{shard + 1:05d}-of-{count:05d}.safetensors"


def weights(config: Config) -> dict[str, WeightSpec]:
    """Every weight of the model under its released name."""
    vocab, d, layers = config.vocab_size, config.hidden_size, config.num_hidden_layers
    stages = config.draft_stages
    head, draft = layers + 1, layers + 2  # DSpark's stages come after the head, an MTP block before
    if not config.is_dspark:
        head, draft = layers + 1 + stages, layers + 1
    found = {"embed.weight": WeightSpec((vocab, d), Role.PLAIN, 0)}
    parts = [(f"layers.{n}.", 1 + n, _block(config, n)) for n in range(layers)]
    parts += [(f"mtp.{n}.", draft + n, _draft(config, n)) for n in range(stages)]
    for prefix, shard, block in parts:
        found |= {prefix + name: WeightSpec(shape, role, shard) for name, shape, role in block}
    for name, shape, role in _head(config):
        found[name] = WeightSpec(shape, role, head)
    found["head.weight"] = WeightSpec((vocab, d), Role.PLAIN, head)
    return found


def dense_modules(config: Config) -> tuple[str, ...]:
    """The dense linears of a checkpoint of `config`, as modules_to_not_convert names them."""
    draft = DSPARK_MODULES if config.is_dspark else MTP_MODULES
    return (*BLOCK_MODULES, *(draft if config.draft_stages else ()))


def layout(config: Config) -> dict[str, TensorSpec]:
    """Every stored tensor of a checkpoint of `config`, scales included.

    Raises: ConfigError for a torch_dtype or a block size that the layout does not know, or for
    FP4 experts whose rows are no multiple of 32.
    """
    found = {}
    for name, weight in weights(config).items():
        dtype = stored_dtype(config, weight.role)
        if dtype is torch.int8 and weight.shape[-1] % fp4.BLOCK:
            raise ConfigError(
                f"{name} has rows of {weight.shape[-1]}: with expert_dtype fp4, hidden_size and "
                f"moe_intermediate_size must be multiples of {fp4.BLOCK}"
            )
        found[name] = TensorSpec(stored_shape(weight.shape, dtype), dtype, weight.shard)
        shape = scale_shape(weight.shape, dtype)
        if shape is not None:
            found[scale_name(name)] = TensorSpec(
                shape, scale_dtype(config, weight.role), weight.shard
            )
    return found


def stored_dtype(config: Config, role: Role) -> torch.dtype:
    """The dtype that a weight of `role` has in a file; torch.int8 stands for packed FP4."""
    if role is Role.FLOAT32:
        return torch.float32
    if role is Role.INDEX:
        return torch.int64
    if config.quantization_config is None:
        return _float_dtype(config)
    block = config.quantization_config.get("weight_block_size", [fp8.BLOCK, fp8.BLOCK])
    if list(block) != [fp8.BLOCK, fp8.BLOCK]:
        raise ConfigError(f"quantization_config.weight_block_size = {block}: must be [128, 128]")
    if role is Role.DENSE:
        return _dense_dtype(config, config.quantization_config)
    if role is Role.EXPERT:
        packed = {"fp4": torch.int8, "fp8": torch.float8_e4m3fn}
        return packed.get(config.expert_dtype or "bf16", torch.bfloat16)
    return torch.bfloat16


def scale_dtype(config: Config, role: Role) -> torch.dtype:
    """E8M0, except where the Base releases have F32: FP8 experts, and without `scale_fmt` all FP8.

    `expert_scale_fmt` is dsv4's own word for FP8 experts with E8M0; FP4 scales are E8M0 always.
    """
    quantization = config.quantization_config or {}
    key = "scale_fmt"
    if role is Role.EXPERT:
        if config.expert_dtype != "fp8":
            return torch.float8_e8m0fnu
        key = "expert_scale_fmt"
    exponents = quantization.get(key) == "ue8m0"
    return torch.float8_e8m0fnu if exponents else torch.float32


def stored_shape(shape: Shape, dtype: torch.dtype) -> Shape:
    """The stored shape of a weight: [out, in/2] when packed as FP4, else as it is."""
    return (*shape[:-1], shape[-1] // 2) if dtype is torch.int8 else shape


def scale_shape(shape: Shape, dtype: torch.dtype) -> Shape | None:
    """The shape of the scales of a weight [out, in] stored as `dtype`, None if it has none."""
    if dtype is torch.int8:
        return (*shape[:-1], shape[-1] // fp4.BLOCK)
    if dtype is torch.float8_e4m3fn:
        return tuple(math.ceil(size / fp8.BLOCK) for size in shape)
    return None


def _dense_dtype(config: Config, quantization: Mapping[str, Any]) -> torch.dtype:
    """BF16 if all dense linears are named as not converted, FP8 if none is."""
    named, modules = set(quantization.get("modules_to_not_convert") or ()), dense_modules(config)
    missing = [module for module in modules if module not in named]
    if missing and len(missing) < len(modules):
        raise ConfigError(
            "quantization_config.modules_to_not_convert must name all dense linears or none: "
            f"it lacks {', '.join(missing)}"
        )
    return torch.float8_e4m3fn if missing else torch.bfloat16


def _float_dtype(config: Config) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if config.torch_dtype not in known:
        raise ConfigError(f"torch_dtype = {config.torch_dtype!r}: must be bfloat16 or float32")
    return known[config.torch_dtype]


Part = tuple[str, Shape, Role]


def _block(config: Config, layer: int) -> Iterator[Part]:
    """The weights of one layer, or of a draft's block numbered after the last layer."""
    d, hc = config.hidden_size, config.hc_mult
    for part in ("attn", "ffn"):
        yield f"{part}_norm.weight", (d,), Role.PLAIN
        yield f"hc_{part}_fn", ((2 + hc) * hc, hc * d), Role.FLOAT32
        yield f"hc_{part}_base", ((2 + hc) * hc,), Role.FLOAT32
        yield f"hc_{part}_scale", (3,), Role.FLOAT32
    yield from _attention(config, layer)
    yield from _moe(config, hashed=config.is_hashed(layer))


def _draft(config: Config, stage: int) -> Iterator[Part]:
    """The weights of one block of the draft: of MTP, or of a DSpark stage."""
    d, vocab = config.hidden_size, config.vocab_size
    yield from _block(config, config.num_hidden_layers + stage)
    if not config.is_dspark:
        yield from ((f"{name}.weight", (d, d), Role.DENSE) for name in MTP_MODULES)
        yield from ((f"{name}.weight", (d,), Role.PLAIN) for name in ("enorm", "hnorm"))
        yield from _head(config)
        return
    targets, rank = config.dspark_target_layer_ids or (), config.dspark_markov_rank or 0
    if stage == 0:
        yield "main_proj.weight", (d, len(targets) * d), Role.DENSE
        yield "main_norm.weight", (d,), Role.PLAIN
    if stage == config.draft_stages - 1:
        yield from _head(config)
        yield "markov_head.markov_w1.weight", (vocab, rank), Role.PLAIN
        yield "markov_head.markov_w2.weight", (vocab, rank), Role.PLAIN
        yield "confidence_head.proj.weight", (1, d + rank), Role.PLAIN


def _head(config: Config) -> Iterator[Part]:
    """What collapses the streams: of the model, and again of the draft."""
    d, hc = config.hidden_size, config.hc_mult
    yield "norm.weight", (d,), Role.PLAIN
    yield "hc_head_fn", (hc, hc * d), Role.FLOAT32
    yield "hc_head_base", (hc,), Role.FLOAT32
    yield "hc_head_scale", (1,), Role.FLOAT32


def _attention(config: Config, layer: int) -> Iterator[Part]:
    d, c, q, H = (
        config.hidden_size,
        config.head_dim,
        config.q_lora_rank,
        config.num_attention_heads,
    )
    g, o = config.o_groups, config.o_lora_rank
    yield "attn.wq_a.weight", (q, d), Role.DENSE
    yield "attn.q_norm.weight", (q,), Role.PLAIN
    yield "attn.wq_b.weight", (H * c, q), Role.DENSE
    yield "attn.wkv.weight", (c, d), Role.DENSE
    yield "attn.kv_norm.weight", (c,), Role.PLAIN
    yield "attn.wo_a.weight", (g * o, H * c // g), Role.DENSE
    yield "attn.wo_b.weight", (d, g * o), Role.DENSE
    yield "attn.attn_sink", (H,), Role.FLOAT32
    kind = config.kind(layer)
    if kind is LayerKind.SLIDING:
        return
    m, width = config.compress_ratios[layer], 2 if kind is LayerKind.CSA else 1
    yield from _compressor("attn.compressor.", d, c, m, width)
    if kind is LayerKind.CSA:
        ih, ic = config.index_n_heads, config.index_head_dim
        yield "attn.indexer.wq_b.weight", (ih * ic, q), Role.DENSE
        yield "attn.indexer.weights_proj.weight", (ih, d), Role.PLAIN
        yield from _compressor("attn.indexer.compressor.", d, ic, m, 2)


def _compressor(prefix: str, d: int, c: int, m: int, width: int) -> Iterator[Part]:
    yield f"{prefix}ape", (m, width * c), Role.FLOAT32
    yield f"{prefix}wkv.weight", (width * c, d), Role.PLAIN
    yield f"{prefix}wgate.weight", (width * c, d), Role.PLAIN
    yield f"{prefix}norm.weight", (c,), Role.PLAIN


def _moe(config: Config, *, hashed: bool) -> Iterator[Part]:
    d, i, E = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
    yield "ffn.gate.weight", (E, d), Role.PLAIN
    if hashed:
        yield "ffn.gate.tid2eid", (config.vocab_size, config.num_experts_per_tok), Role.INDEX
    else:
        yield "ffn.gate.bias", (E,), Role.FLOAT32
    shapes = {"w1": (i, d), "w2": (d, i), "w3": (i, d)}
    for name, shape in shapes.items():
        yield f"ffn.shared_experts.{name}.weight", shape, Role.DENSE
    for expert in range(E):
        for name, shape in shapes.items():
            yield f"ffn.experts.{expert}.{name}.weight", shape, Role.EXPERT
