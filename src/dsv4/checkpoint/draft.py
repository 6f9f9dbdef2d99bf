"""Which draft a checkpoint has: its tensors decide, and its config is brought into line with them.

stored                            the config that is read
mtp.*.main_proj or markov_head    must be DSpark's, with as many stages
mtp.0.e_proj                      an MTP block, whatever dspark_* say
no mtp.*                          DSpark's fields are dropped; an MTP block is still asked for

Code that re-saves a checkpoint may keep the fields of a draft whose tensors it dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dsv4.config import DSPARK_FIELDS, Config, ConfigError

DRAFT = re.compile(r"mtp\.(?P<stage>\d+)\.(?P<part>\w+)\b.*")
DSPARK_PARTS = ("main_proj", "markov_head")


def holds_dspark(names: Iterable[str]) -> bool:
    """Whether the stored tensors `names` hold a DSpark draft."""
    return any(match["part"] in DSPARK_PARTS for match in map(DRAFT.match, names) if match)


def fit_draft(config: Config, names: Iterable[str]) -> Config:
    """`config` with the draft that the stored tensors `names` are of.

    Raises: ConfigError for a DSpark draft that the config does not describe, or with another
    number of stages.
    """
    names = list(names)
    found = [match for match in map(DRAFT.match, names) if match]
    if holds_dspark(names):
        _check_stages(config, len({match["stage"] for match in found}))
        return config
    if not config.dspark_block_size:
        return config
    alone = config.without_draft()
    is_mtp = any(match["part"] == "e_proj" for match in found)
    return alone.replace(num_nextn_predict_layers=1) if is_mtp else alone


def _check_stages(config: Config, stored: int) -> None:
    if not config.dspark_block_size:
        raise ConfigError(
            f"mtp.* is a DSpark draft of {stored} stages, which the config does not describe: it "
            f"needs {', '.join(DSPARK_FIELDS)}"
        )
    if config.draft_stages != stored:
        raise ConfigError(
            f"compress_ratios has {config.draft_stages} entries after those of the "
            f"{config.num_hidden_layers} layers, but the tensors are of {stored} DSpark stages "
            f"(mtp.0 … mtp.{stored - 1}): it needs one 0 for each"
        )
