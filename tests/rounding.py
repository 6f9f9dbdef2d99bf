"""The rounding points of packed models, from the specification, for tests/reference.py."""

import formats
import torch
from reference import Rounding


def roundings(config):
    """mode → what is rounded, for a model of `config`."""
    plain, ic = config.head_dim - config.qk_rope_head_dim, config.index_head_dim
    turn = formats.hadamard(ic) if ic & (ic - 1) == 0 else torch.eye(ic, dtype=torch.float64)

    def stored_entry(x):
        return torch.cat((formats.fp8(x[..., :plain], 64), formats.bf16(x[..., plain:])), -1)

    class Fast(Rounding):
        operand = operand_of_wo_a = score = staticmethod(formats.bf16)
        entry = staticmethod(stored_entry)
        key = staticmethod(lambda x: formats.fp4(x @ turn))

    class Exact(Fast):
        activation = index_weight = probability = staticmethod(formats.bf16)
        operand = staticmethod(lambda x: formats.fp8(x, 128))
        key = staticmethod(lambda x: formats.fp4(formats.bf16(x @ turn)))

    return {"fast": Fast, "exact": Exact}
