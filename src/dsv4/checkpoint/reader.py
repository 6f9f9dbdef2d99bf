"""A checkpoint folder: config.json, an index, shards. Headers are read at once, data when asked.

The dtype of a stored tensor says how to read it, not the config: BF16 and F32 as they are, F8_E4M3
and I8 (packed FP4) times the `.scale` beside them, which may be F8_E8M0 or F32.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsv4.checkpoint import told
from dsv4.checkpoint.draft import fit_draft
from dsv4.checkpoint.errors import CheckpointError, Differences, MismatchError, listed
from dsv4.checkpoint.forms import as_stored
from dsv4.checkpoint.layout import Shape, scale_name, scale_shape, stored_shape
from dsv4.checkpoint.names import refuse_relatives, released_name
from dsv4.checkpoint.revision import decide
from dsv4.checkpoint.shard import Shard
from dsv4.config import Config, ConfigError, Fields, read_fields
from dsv4.files import FileError, check_regular, read_json
from dsv4.quant import fp4, fp8
from dsv4.quant.scales import check_finite

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
FLOATS = ("BF16", "F32")
PACKED = {"F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}
SCALES = ("F8_E8M0", "F32")
LARGEST_INDEX = 1 << 28  # bytes; V4-Pro's has 15 MB


@dataclass(frozen=True)
class StoredTensor:
    """What a shard's header says of a tensor: shape, dtype in safetensors' words, file, and the
    name that it has there.
    """

    shape: Shape
    dtype: str
    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Checkpoint:
    """A checkpoint that is open for reading; `config` and `tensors` are known, no data is loaded.

    Raises: CheckpointError for a missing folder, config, index or shard, a shard that is truncated
    or no safetensors file, or an index that places a tensor where it is not. With `copy`, views are
    of a copy of their shard in memory, not of the mapped file. `revision`: see checkpoint/revision.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, copy: bool = False, revision: str | None = None
    ):
        self.path, self.copy = Path(path), copy
        if not self.path.is_dir():
            raise CheckpointError(f"there is no checkpoint folder {self.path}")
        fields = self._fields()
        index = self._index()
        self.shards = sorted(set(index.values())) if index is not None else [SINGLE_FILE]
        self.tensors: dict[str, StoredTensor] = {}
        self.unindexed: list[str] = []
        self._shard: tuple[str, Shard] | None = None
        self._read_headers(index)
        refuse_relatives(self.path, self.tensors)
        self.config = decide(self.path, self._complete(fields), self.tensors, revision)

    def differences(self, expected: Mapping[str, Shape]) -> Differences:
        """What is missing, unexpected or unfit, where the weights `expected` should be stored."""
        found, used = Differences(), set()
        for name, shape in expected.items():
            if name not in self.tensors:
                found.missing.append(name)
                continue
            used.add(name)
            self._compare(name, shape, found, used)
        found.unexpected = sorted(self.tensors.keys() - used) + self.unindexed
        return found

    def check(self, expected: Mapping[str, Shape], *, strict: bool = True) -> Differences:
        """Raise MismatchError unless the weights `expected` [name → logical shape], and no other
        tensors, are stored. Not strict: missing and unexpected ones are returned instead.
        """
        found = self.differences(expected)
        if found.unfit or (strict and (found.missing or found.unexpected)):
            raise self._mismatch(found, expected)
        return found

    def _mismatch(self, found: Differences, expected: Iterable[str]) -> MismatchError:
        """The error for tensors that differ; a whole draft too many or too few is one remedy."""
        stored = any(name.startswith("mtp.") for name in self.tensors)
        asked = any(name.startswith("mtp.") for name in expected)
        text = f"{self.path}: the shards do not hold the model that its config.json describes"
        if stored == asked:
            return MismatchError(text, found)
        count = sum(n.startswith("mtp.") for n in (*found.missing, *found.unexpected))
        remedy = (
            f"{self.path}: the shards hold an MTP block ({count} tensors mtp.*) that is not asked "
            "for: set num_nextn_predict_layers to 1 in config.json"
            if stored
            else f"{self.path}: num_nextn_predict_layers asks for an MTP block, of which no tensor "
            f"is stored: set it to 0 in config.json to load the model without one ({count} tensors "
            "mtp.* are missing)"
        )
        shown = Differences(
            *([n for n in names if not n.startswith("mtp.")] for names in found.lists())
        )
        return MismatchError(remedy, found, shown)

    def read_tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight `name` in its logical shape, dequantised, as `dtype`; I64 stays int64.

        Raises: CheckpointError if it is not there, holds NaN or infinity, or has a bad scale.
        """
        stored = self._stored(name)
        if stored.dtype not in (*PACKED, *FLOATS, "I64"):
            raise CheckpointError(f"{self.path / stored.file}: {name} has dtype {stored.dtype}")
        data = self.view(name)
        if stored.dtype in PACKED:
            quant = fp8 if stored.dtype == "F8_E4M3" else fp4
            try:
                return quant.dequantize(data, self.view(scale_name(name)), dtype, name)
            except ValueError as error:
                raise CheckpointError(f"{self.path / stored.file}: {error}") from error
        self.check_values(name, data)
        return data if stored.dtype == "I64" else data.to(dtype)

    def view(self, name: str) -> Tensor:
        """The stored bytes of `name`, in the dtype and shape of the file, as a view of the mapped
        file; only one shard is kept open here.
        """
        return self._open(name).tensor(self._stored(name).name)

    def place(self, name: str) -> tuple[int, int]:
        """Address and bytes of the mapped file that `view` of this name lies in."""
        return self._open(name).place

    def check_values(self, name: str, data: Tensor) -> None:
        """Raise CheckpointError, naming the tensor, for NaN, infinity, or experts that are none."""
        stored = self._stored(name)
        if stored.dtype == "I64":
            self._check_experts(name, data)
            return
        try:
            check_finite(data, name)
        except ValueError as error:
            raise CheckpointError(f"{self.path / stored.file}: {error}") from error

    def in_shard_order(self, names: Iterable[str]) -> list[str]:
        """`names` ordered by the shard that holds them, so that each is opened once."""
        return sorted(names, key=lambda name: self._stored(name).file)

    # ---- config and headers --------------------------------------------------------------

    def _fields(self) -> Fields:
        """What config.json says."""
        try:
            return read_fields(self.path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} holds no config.json") from error
        except ConfigError as error:
            raise CheckpointError(str(error)) from error

    def _complete(self, fields: Fields) -> Config:
        """The config of what is stored: absent fields from shapes, forms from dtypes."""
        try:
            config = Config.from_fields(told.complete(fields, self.tensors))
            config = fit_draft(config, self.tensors)
        except ConfigError as error:
            raise CheckpointError(f"{self.path / 'config.json'}: {error}") from error
        return as_stored(config, self.tensors)

    def _index(self) -> dict[str, str] | None:
        """Tensor name → file name; None if the checkpoint is one file without an index."""
        file = self.path / INDEX_FILE
        if not file.exists():
            if (self.path / SINGLE_FILE).exists():
                return None
            raise CheckpointError(f"{self.path} holds neither {INDEX_FILE} nor {SINGLE_FILE}")
        try:
            index = read_json(file, LARGEST_INDEX)["weight_map"]
            places = {str(name): str(place) for name, place in index.items()}
        except (FileError, LookupError, TypeError, AttributeError) as error:
            why = f" ({error})" if isinstance(error, FileError) else ""
            raise CheckpointError(
                f"{file} is no index: it needs a weight_map of files{why}"
            ) from error
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
        outside = [place for place in places.values() if Path(place).name != place]
        if outside:
            raise CheckpointError(f"{file} names {outside[0]!r}, which is no plain file name")
        return places

    def _read_headers(self, index: dict[str, str] | None) -> None:
        """Note every tensor; raise one CheckpointError for all files that are not as they should
        be.
        """
        problems = []
        for file in self.shards:
            try:
                self._read_header(file, index)
            except FileNotFoundError:
                problems.append(f"{file} is missing")
            except SafetensorError as error:
                problems.append(f"{file} is truncated or no safetensors file ({error})")
            except OSError as error:
                problems.append(f"{file} cannot be read: {error.strerror or error}")
            except (FileError, CheckpointError) as error:
                problems.append(str(error))
            except ValueError as error:  # a name that the system cannot have
                problems.append(f"{INDEX_FILE} names {file!r}, which is no file name ({error})")
        held = {tensor.name for tensor in self.tensors.values()}
        lost = sorted((index or {}).keys() - held) if not problems else []
        if lost and index is not None:
            places = listed([f"{name} in {index[name]}" for name in lost])
            problems.append(f"{INDEX_FILE} places tensors where they are not: {places}")
        if problems:
            raise CheckpointError(f"{self.path}: {'; '.join(problems)}")

    def _read_header(self, file: str, index: dict[str, str] | None) -> None:
        check_regular(self.path / file)
        with safe_open(self.path / file, framework="pt") as shard:
            for stored in shard.keys():  # noqa: SIM118 (no mapping)
                if index is not None and index.get(stored) != file:
                    self.unindexed.append(f"{stored} (in {file}, not so in the index)")
                    continue
                name = released_name(stored)
                if name in self.tensors:
                    both = f"{self.tensors[name].name} and {stored}"
                    raise CheckpointError(f"{both} are two tensors for one, {name}")
                header = shard.get_slice(stored)
                self.tensors[name] = StoredTensor(
                    tuple(header.get_shape()), header.get_dtype(), file, stored
                )

    def _compare(self, name: str, shape: Shape, found: Differences, used: set[str]) -> None:
        """Compare one stored weight, and its scale, with the logical shape it should have."""
        stored = self.tensors[name]
        packed = PACKED.get(stored.dtype)
        if name.endswith(".tid2eid"):
            allowed, fits = "I64", stored.dtype == "I64"
        elif len(shape) == 2 and name.endswith(".weight"):
            allowed, fits = "BF16, F32, F8_E4M3 or I8", stored.dtype in (*FLOATS, *PACKED)
        else:
            allowed, fits = "BF16 or F32", stored.dtype in FLOATS
        want = stored_shape(shape, packed) if packed else shape
        if not fits or stored.shape != want:
            text = f"{name} is {stored}, must be {allowed if not fits else stored.dtype}"
            found.unfit.append(f"{text} {list(want)}")
        elif packed is torch.int8 and shape[-1] % fp4.BLOCK:
            found.unfit.append(
                f"{name} is {stored}: its rows of {shape[-1]} are no whole FP4 blocks of "
                f"{fp4.BLOCK}"
            )
        scales = scale_shape(shape, packed) if packed and fits else None
        if scales is None:
            return
        beside = self.tensors.get(scale_name(name))
        if beside is None:
            found.missing.append(scale_name(name))
            return
        used.add(scale_name(name))
        if beside.dtype not in SCALES or beside.shape != scales:
            found.unfit.append(
                f"{scale_name(name)} is {beside}, must be {' or '.join(SCALES)} {list(scales)}"
            )

    # ---- data ----------------------------------------------------------------------------

    def _open(self, name: str) -> Shard:
        file = self._stored(name).file
        if self._shard is None or self._shard[0] != file:
            self._shard = file, Shard(self.path / file, copy=self.copy)
        return self._shard[1]

    def _stored(self, name: str) -> StoredTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name}") from None

    def _check_experts(self, name: str, table: Tensor) -> None:
        experts = self.config.n_routed_experts
        low, high = (int(bound) for bound in torch.aminmax(table)) if table.numel() else (0, 0)
        if low < 0 or high >= experts:
            raise CheckpointError(
                f"{self.path / self._stored(name).file}: {name} names expert "
                f"{low if low < 0 else high}, the config has n_routed_experts {experts}"
            )
