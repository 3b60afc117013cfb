"""Where a store is: its folder on this machine, what it shares with others, and the keys that sign."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from model_store.attestation import VARIABLE as TRUSTED_VARIABLE
from model_store.attestation import Trusted
from model_store.errors import Permanent
from model_store.signing import Keyring
from model_store.storage import store_folder as folder
from model_store.storage.shared import Shared

# The file of the keys that sign bundles, where it is not beside the store.
KEYS_VARIABLE = "SLIPWAY_BUNDLE_KEYS"


def keys_file(folder: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The keys of a store: where the variable says, else beside its folder on this machine."""
    return Path(environ.get(KEYS_VARIABLE) or folder.with_name("bundle_keys.json"))


def trusted_in(folder: Path, environ: Mapping[str, str] = os.environ) -> Trusted:
    """Whose signatures are good for a store: the public keys that the environment holds, where it does (a
    controller that signs nothing), else those of its file of keys. Raises `Permanent` for what are none.
    """
    if said := environ.get(TRUSTED_VARIABLE):
        return Trusted.parse(said)
    return Keyring.of(keys_file(folder, environ)).trust


class Place:
    """What all parts of a store stand on.

    `root`: a folder on one file system. `keys`: the file of the keys that sign bundles; beside the store, not
    in it, so that writing to the store is not enough. `makes_keys`: whether this is the installation itself.
    `trusted`: public keys that count instead of those, for who signs nothing.
    """

    def __init__(
        self,
        root: Path,
        *,
        shared: Shared | None = None,
        keys: Path | None = None,
        makes_keys: bool = True,
        trusted: Trusted | None = None,
    ) -> None:
        self.root = root
        self.keys = keys or root.with_name("bundle_keys.json")
        self._makes_keys, self._trusted = makes_keys, trusted
        self.shared = shared
        self._tmp = root / folder.TMP

    @property
    def url(self) -> str:
        """Where what counts is kept."""
        return self.shared.storage.url if self.shared else self.root.absolute().as_uri()

    def keyring(self) -> Keyring:
        """The keys, made on first use (`makes_keys`). Raises `Permanent` when their file cannot be read."""
        if not self._makes_keys and not self.keys.is_file():
            # One made here would be trusted nowhere.
            raise Permanent(
                f"there are no keys here to sign bundles and to verify them with: {self.keys} is not there",
                remedy=f"set {KEYS_VARIABLE} to a copy of the installation's bundle_keys.json",
            )
        return Keyring.of(self.keys)

    def trusted(self) -> Trusted:
        """Whose signatures are good here. Raises `Permanent` as `keyring`."""
        return self._trusted or self.keyring().trust

    def _lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"


def plain(name: str) -> str:
    """Names come from digests and ids: anything that is not plain hex never becomes a path."""
    if not name or set(name) - set("0123456789abcdef"):
        raise Permanent(f"{name!r} is not a digest or id", remedy="pass the id as the store printed it")
    return name
