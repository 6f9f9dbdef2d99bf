"""Names of stored tensors that mean the same as the release's: what transformers 5 writes.

model.X                        → X
embed_tokens.weight            → embed.weight
hc_head.hc_fn, _base, _scale   → hc_head_fn, _base, _scale
layers.L.attn.norm.weight      → layers.L.attn.kv_norm.weight
X.weight_scale_inv             → X.scale
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dsv4.checkpoint.errors import CheckpointError

WHOLE = {
    "embed_tokens.weight": "embed.weight",
    "lm_head.weight": "head.weight",
    "hc_head.hc_fn": "hc_head_fn",
    "hc_head.hc_base": "hc_head_base",
    "hc_head.hc_scale": "hc_head_scale",
}
NORM = re.compile(r"(layers\.\d+|mtp\.\d+)\.attn\.norm\.weight")
SCALE = ".weight_scale_inv"
INNER = ".self_attn."  # how transformers names modules in memory
VISION = re.compile(r".*\.bias_vl|(model\.)?(vision|visual|image_)\w*\..*")


def released_name(stored: str) -> str:
    """The release's name of a stored tensor."""
    name = stored.removeprefix("model.")
    name = WHOLE.get(name, name)
    norm = NORM.fullmatch(name)
    if norm is not None:
        return f"{norm[1]}.attn.kv_norm.weight"
    return name.removesuffix(SCALE) + ".scale" if name.endswith(SCALE) else name


def refuse_relatives(path: Path, names: Iterable[str]) -> None:
    """Raises CheckpointError, naming a tensor, for models and layouts that are others."""
    for name in names:
        if INNER in name:
            raise CheckpointError(
                f"{path} names its tensors as transformers' modules do ({name}): write it with "
                "save_pretrained, which names them as the release"
            )
        if VISION.fullmatch(name):
            raise CheckpointError(f"{path} holds {name}: V4 with vision is not supported")
