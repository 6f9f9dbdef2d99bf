"""A run as one value: which model, on which text, for how long, at which rates. Needs no torch.

A recipe is checked when it is made: errors name field, value and range. Its numbers of tokens count
places in rows, padding included; the rate falls over the last `decay` share of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from dsv4.config import Config, ConfigError, LayerKind
from dsv4.config.presets import PRESETS
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.ranges import check_fields, nearest

FREE = ("name", "sinks", "keep", "mesh")  # what may differ when a run goes on


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run. Attention is `dense` (every entry), `indexer` (dense, and the indexer
    alone learns, from the attention's mass) or `sparse` (the indexer chooses, and learns on)."""

    tokens: int
    seq_len: int
    batch_tokens: int  # a step's, whole rows of them
    attention: str = "sparse"
    lr: float | None = None  # constant; None: the recipe's schedule
    least: int = 0  # documents of fewer tokens are left out

    def __post_init__(self) -> None:
        check_fields(self, "stages.")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A folder of token files (`dsv4 data build`). `weight` None: as many as its tokens; `epochs`
    None: no end."""

    folder: str
    weight: float | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "text.")


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What happens when a step goes wrong (report, section 4.2.3).

    A loss is a spike if it is above the median of the last `window` losses by `threshold` robust
    deviations and by `rise` of the median, `patience` times running. The run then goes back to the
    newest saved state that is `margin` steps older than the first of them; until `anticipate` steps
    after the spike, experts are chosen by the weights of `delay` steps before.
    """

    on_bad_batch: str = "stop"  # a loss or gradients that are not finite: stop the run, or skip
    most_skipped: int = 100
    window: int = 128  # 0: nothing is a spike
    threshold: float = 8.0
    rise: float = 0.2
    patience: int = 2
    margin: int = 10
    most_rollbacks: int = 20
    delay: int = 4
    anticipate: int = 200  # 0: no anticipatory routing

    def __post_init__(self) -> None:
        check_fields(self, "stability.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. Raises: ValueError naming field, value and range."""

    name: str = "run"
    model: str = "nano"  # a preset, or a config.json
    config: Mapping[str, Any] = field(default_factory=dict)  # fields in place of the model's own
    text: tuple[Text, ...] = ()  # none: simple English, prepared in the run's folder
    stages: tuple[Stage, ...]
    tokens: int | None = None  # stretches the stages to so many together
    minutes: float | None = None  # stretches them while it runs, so that it ends then
    lr: float = 1e-2
    floor: float = 0.1  # of the rate, at the end
    warmup: int = 40  # steps
    decay: float = 0.5  # share of the tokens, at the end
    ramp_from: int = 0  # tokens a step at the beginning (0: no ramp) …
    ramp_tokens: int = 0  # … and after how many tokens the batch is its stage's
    optimizer: str = "muon"  # and AdamW for the rest (train/optim.py); adamw: for everything
    weight_decay: float = 0.1
    clip: float = 1.0
    mtp_weight: float = 0.3
    mtp_weight_at_end: float = 0.1  # while the rate falls
    balance: float = 1e-4
    bias_step: float = 1e-3
    precision: str = "float32"  # of products: also bfloat16, fp8, fp4 (model/precision.py)
    recompute: bool = False
    micro_tokens: int = 0  # at most so many go through the model at once; 0: the whole batch
    mesh: str = "1"  # how many processes divide it, and how: "dp=4 ep=4 cp=2"
    seed: int = 0
    evaluate_every: int = 200
    evaluate_tokens: int = 1 << 16  # of each text
    save_every: int = 100
    keep: int = 3  # saved states
    sinks: tuple[str, ...] = ()
    stability: Stability = Stability()

    def __post_init__(self) -> None:
        check_fields(self, "")
        Sizes.parse(self.mesh)
        if not self.stages:
            raise ValueError("stages: a recipe needs one at least")
        if bool(self.ramp_from) != bool(self.ramp_tokens):
            raise ValueError("ramp_from and ramp_tokens belong together: give both or neither")
        if self.minutes is not None and Sizes.parse(self.mesh).processes > 1:
            raise ValueError(
                f"minutes are measured in one process, mesh is {self.mesh!r}: give tokens=…"
            )

    @cached_property
    def model_config(self) -> Config:
        """The model's config. Raises ConfigError, FileNotFoundError."""
        known = self.model in PRESETS
        if not known and not Path(self.model).exists():
            names, near = ", ".join(PRESETS), nearest(self.model, PRESETS)
            raise ConfigError(f"model = {self.model!r}: must be {names}, or a config.json{near}")
        base = Config.from_preset(self.model) if known else Config.load(self.model)
        return base.replace(**self.config)

    def check(self) -> None:
        """Raises ValueError for stages that the model cannot have."""
        config = self.model_config
        ratios = _ratios(config)
        for stage in self.stages:
            if stage.seq_len > config.max_position_embeddings:
                raise ValueError(
                    f"seq_len = {stage.seq_len}: this model's context ends at "
                    f"{config.max_position_embeddings} tokens"
                )
            if stage.seq_len < min(ratios, default=1):
                raise ValueError(
                    f"seq_len = {stage.seq_len}: must be at least {min(ratios)}, or no row holds "
                    "one block for the compressed layers to see"
                )
            Sizes.parse(self.mesh).check(config, stage.seq_len)
            if stage.batch_tokens < stage.seq_len:
                raise ValueError(
                    f"batch_tokens = {stage.batch_tokens}: must hold a row of seq_len = "
                    f"{stage.seq_len}"
                )
            if stage.attention == "indexer" and LayerKind.CSA not in config.layer_kinds:
                raise ValueError("attention = 'indexer': this model has no layer with an indexer")

    def untrained(self) -> list[int]:
        """The compress ratios whose blocks no row closes: these compressors keep their initial
        weights."""
        longest = max(stage.seq_len for stage in self.stages)
        return [ratio for ratio in _ratios(self.model_config) if ratio > longest]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and a saved state hold them."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The recipe of `to_dict`, also of an older one's. Raises ValueError."""
        own, _ = completed(values)
        own["stages"] = tuple(Stage(**stage) for stage in own["stages"])
        own["text"] = tuple(Text(**text) for text in own["text"])
        own["sinks"], own["stability"] = tuple(own["sinks"]), Stability(**own["stability"])
        return cls(**own)


def completed(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain values of a recipe that was written before some settings were there, with their
    defaults in; and these, by their names on the command line.

    Raises: ValueError for a setting that is unknown here, or that has no default.
    """
    own, added = _complete(Recipe, values, "")
    for name, kind in (("stages", Stage), ("text", Text)):
        each = [_complete(kind, one, f"{name}.{n}.") for n, one in enumerate(own[name])]
        own[name] = [one for one, _ in each]
        for _, more in each:
            added |= more
    own["stability"], more = _complete(Stability, own["stability"], "stability.")
    return own, added | more


def _complete(
    kind: Any, values: Mapping[str, Any], prefix: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of one dataclass."""
    known = {one.name: one for one in fields(kind)}
    if unknown := [prefix + name for name in values if name not in known]:
        raise ValueError(f"{', '.join(unknown)}: there is no such setting in this version of dsv4")
    added = {}
    for name, one in known.items():
        if name in values:
            continue
        if one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
        default = one.default if one.default_factory is MISSING else one.default_factory()
        added[name] = _plain(asdict(default) if isinstance(default, Stability) else default)
    return {**values, **added}, {prefix + name: value for name, value in added.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _ratios(config: Config) -> list[int]:
    return sorted({ratio for ratio in config.compress_ratios if ratio})
