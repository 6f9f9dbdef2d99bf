"""The native module, where it was built and is wanted; DSV4_NATIVE=0 switches it off.

Without it the plain operators of this folder do all the work, slower: `module` says so once.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

SWITCH = "DSV4_NATIVE"
ABI = 11  # raised here and in csrc/module.cpp whenever a name or an argument of the module changes
MOST_THREADS = 1024  # of the native pool


@functools.cache
def module() -> ModuleType | None:
    """`dsv4._native`, or None: then why is said once, as a warning."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        found = import_module("dsv4._native")
    except ImportError as error:
        _warn(f"is not there ({error}). Install a C++20 compiler and dsv4 again")
        return None
    if getattr(found, "ABI", None) != ABI:
        _warn(f"in {found.__file__} was built from other code. Run pip install -e . again")
        return None
    return found


def trainer(*tensors: Tensor) -> ModuleType | None:
    """The native module, if its training operators take these: float32 on a CPU that has fused
    multiply-add. Its pool then has torch's number of threads."""
    if not all(x.dtype is torch.float32 and x.device.type == "cpu" for x in tensors):
        return None
    found = module()
    if found is None or found.kernels() == "portable":
        return None
    use_threads(found)
    return found


def _warn(why: str) -> None:
    warnings.warn(
        f"dsv4 runs on its plain operators, which are slower: the native module {why}, or set "
        f"{SWITCH}=0 to silence this",
        RuntimeWarning,
        stacklevel=3,
    )


def leave_threads_to_native() -> None:
    """From here on torch's own operators run on one thread in this one, and native ones on as many
    as torch had: they share a few small regions with whatever else the machine does, and those of
    torch wait for every one of its threads."""
    _own.threads = torch.get_num_threads()
    torch.set_num_threads(1)


def use_threads(native: ModuleType) -> None:
    """Give the native pool as many threads as torch has."""
    threads = min(getattr(_own, "threads", None) or torch.get_num_threads(), MOST_THREADS)
    if threads != _THREADS[0]:
        native.set_threads(threads)
        _THREADS[0] = threads


_THREADS = [1]  # what the pool has
_own = threading.local()  # what a thread has kept for it
