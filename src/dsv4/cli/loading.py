"""Which model `dsv4 generate` and `dsv4 chat` load, and how; checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.options import Threads, exclude, set_threads
from dsv4.cli.sizes import parse_size
from dsv4.cli.streams import note
from dsv4.config import PRESETS

if TYPE_CHECKING:
    from dsv4.model.transformer import Transformer
    from dsv4.tokenizer import Tokenizer

Name = Annotated[str, typer.Argument(help="A checkpoint folder; nano is the packaged model.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 or bfloat16.", show_default="a quantised checkpoint stays packed"),
]
Mode = Annotated[
    str | None,
    typer.Option(
        help="How a packed model computes: fast, or exact as the release rounds.",
        show_default="fast",
    ),
]
MaxResident = Annotated[
    str | None,
    typer.Option(
        help="Keep the process's memory near this size, such as 4GiB: experts of a packed model "
        "are read from the files when they are needed."
    ),
]
Copy = Annotated[
    bool, typer.Option("--copy", help="Copy a packed model's files into memory: faster decoding.")
]


def checkpoint_folder(name: str) -> Path:
    """The folder that `name` means: nano is the packaged one. Raises ValueError where there is
    none, as for a preset that has no weights.
    """
    if name not in PRESETS:
        if not Path(name).is_dir():
            raise ValueError(f"{name} is no folder: name that of a checkpoint")
        return Path(name)
    if has_no_weights(name):
        raise ValueError(
            f"{name} is a preset, which has no weights: name a checkpoint folder "
            f"(./{name}, if it is called so), or nano"
        )
    if Path(name).is_dir():
        note("dsv4: nano is the packaged model; the folder is ./nano")
    return packaged()


def has_no_weights(name: str) -> bool:
    """Whether `name` is a preset of which no model comes along."""
    return name in PRESETS and name != "nano"


def packaged() -> Path:
    """The folder of the model that comes along."""
    import dsv4

    return Path(dsv4.__file__).parent / "nano"


@dataclass
class Loading:
    """Checked options. Raises ValueError for a wrong one, or for two that exclude each other."""

    name: str
    dtype: str | None
    mode: str | None
    max_resident: str | None
    copy: bool
    threads: int | None
    revision: str | None = None

    def __post_init__(self) -> None:
        from dsv4.checkpoint.load import MODES

        for option, value, known in (
            ("dtype", self.dtype, ("float32", "bfloat16")),
            ("mode", self.mode, tuple(MODES)),
        ):
            if value is not None and value not in known:
                raise ValueError(f"{option} = {value!r}: must be {' or '.join(known)}")
        exclude(dtype=self.dtype, mode=self.mode)
        exclude(dtype=self.dtype, max_resident=self.max_resident, copy=self.copy)
        self.folder = checkpoint_folder(self.name)
        size = self.max_resident
        self.cap = None if size is None else parse_size(size, "--max-resident")
        set_threads(self.threads)

    def load(self) -> tuple[Transformer, Tokenizer]:
        """The model and its tokenizer. Raises ValueError."""
        import torch

        from dsv4.checkpoint.load import load
        from dsv4.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(self.folder)  # first: a missing one is told at once
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        model = load(
            self.folder,
            dtype,
            mode=self.mode,
            max_resident=self.cap,
            copy=self.copy,
            revision=self.revision,
        )
        tokenizer.check_fits(model.config.vocab_size)
        return model, tokenizer


@dataclass(kw_only=True)
class LoadOptions:
    """How a command's model is loaded."""

    dtype: Dtype = None
    mode: Mode = None
    max_resident: MaxResident = None
    copy: Copy = False
    threads: Threads = None

    @property
    def of_loading(self) -> dict[str, Any]:
        """These options by name."""
        return {field.name: getattr(self, field.name) for field in fields(LoadOptions)}

    def loading(self, name: str, revision: str | None = None) -> Loading:
        """Of that model. Raises as `Loading` does."""
        return Loading(name, **self.of_loading, revision=revision)
