"""V4-Pro as the report states it (sections 4.2.1 and 4.2.2): 33T tokens, 94.4M a step.

As flash; the dense stage is longer, by how much is not stated: here it is 2T tokens.
"""

import dataclasses

from dsv4.recipes.flash import RECIPE as FLASH
from dsv4.recipes.flash import K, T, stages

BATCH = 23040 * 4 * K  # 94.4M tokens

RECIPE = dataclasses.replace(
    FLASH,
    name="pro",
    model="pro",
    stages=stages(BATCH, dense=2 * T),
    lr=2.0e-4,  # to 2.0e-5
    ramp_from=BATCH // 16,
)
