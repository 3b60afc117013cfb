"""Whom to believe about a bundle: public keys, and what is verified with them before it is loaded.

A manifest is signed with Ed25519 (RFC 8032) and vouches for every file by its digest; what is signed also
says where the model came from and what its gates measured. Pods verify it by this module, so it imports
nothing of ours but what a pod has. Who signs is `model_store.signing`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.durable import canonical_json, digest_file
from model_store.errors import Permanent

SCHEME = "ed25519"
# What is signed is never mistaken for anything else that the same key might sign one day.
CONTEXT = b"slipway bundle manifest 1\n"
KEY_BYTES = 32
MANIFEST = "manifest.json"
# The public keys themselves, for a process that verifies: as `slipway store public-keys` prints them.
VARIABLE = "SLIPWAY_TRUSTED_KEYS"


class NotSigned(Permanent):
    """The manifest has no signature of a key that is trusted here, or was changed after it was signed."""


class NotAttested(Permanent):
    """The bytes are not those that were signed."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys, each of which may have signed. Several, so that keys can rotate."""

    keys: tuple[bytes, ...]

    @classmethod
    def parse(cls, said: str) -> Trusted:
        """From JSON as `slipway store public-keys` prints it. Raises `Permanent` for what is none."""
        try:
            keys = decoded(json.loads(said)["public"])
        except (ValueError, KeyError, TypeError) as error:
            raise _no_keys(repr(error)) from error
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise _no_keys(f"keys have {KEY_BYTES} bytes")
        return cls(keys)

    def written(self) -> str:
        """What `parse` reads."""
        return json.dumps({"public": [base64.b64encode(key).decode() for key in self.keys]})

    def of_signer(self, signature: str) -> Trusted:
        """The one key that made this signature, for who shall believe no other; all where it is none's."""
        signer = signature.removeprefix(f"{SCHEME}:").partition(":")[0]
        return Trusted(tuple(key for key in self.keys if public_id(key) == signer) or self.keys)

    def require(self, manifest: Mapping[str, Any], where: Path | str) -> None:
        """Raises `NotSigned` unless one of these keys signed the manifest as it is."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        scheme, _, rest = str(manifest.get("signature") or "").partition(":")
        signer, _, signature = rest.partition(":")
        if not signature or scheme != SCHEME:
            raise _not_signed(where, "is not signed")
        key = Ed25519PublicKey.from_public_bytes(self._key(signer, where))
        try:
            key.verify(base64.b64decode(signature), signed_content(manifest))
        except (InvalidSignature, ValueError) as error:
            raise _not_signed(where, "was changed after it was signed") from error

    def sealed(self, content: bytes, seal: str) -> bool:
        """Whether one of these keys sealed the bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        for key in self.keys:
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(seal), content)
            except (InvalidSignature, ValueError):
                continue
            return True
        return False

    def _key(self, signer: str, where: Path | str) -> bytes:
        for key in self.keys:
            if public_id(key) == signer:
                return key
        raise _not_signed(where, f"is signed by the key {signer}, which is not trusted here")


def attest(bundle: Path, trusted: Trusted) -> dict[str, Any]:
    """The manifest; every file of the bundle is what a trusted key signed, and the folder is named after it.

    Raises `NotSigned`, or `NotAttested` naming the files: changed, missing, or in no manifest.
    """
    manifest = _manifest(bundle)
    trusted.require(manifest, bundle)
    if manifest.get("id") != bundle.resolve().name:
        # A signed bundle under another's name: an old version could come back so.
        raise _not_attested(f"{bundle} holds the bundle {manifest.get('id')}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not files or manifest.get("file") not in files:
        raise _not_attested(f"the manifest of {bundle} does not vouch for the model that it names")
    if strange := strange_files(bundle, files):
        raise _not_attested(f"{bundle}: {', '.join(strange[:5])} is not what was signed")
    return manifest


def strange_files(bundle: Path, files: Mapping[str, str]) -> list[str]:
    """What in the folder, besides its manifest, is not as `files` says: changed, missing, or not listed."""
    there = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()} - {MANIFEST}
    changed = {name for name in there & set(files) if digest_file(bundle / name) != files[name]}
    return sorted(changed | (there ^ set(files)))


@contextmanager
def unchanged(path: Path, digest: str) -> Iterator[Path]:
    """Another name of the file, for what opens files by their name: the bytes behind it are those of `digest`
    now and when the context ends, whoever may write there. Raises `NotAttested`.
    """
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        sha = hashlib.file_digest(file, "sha256")
        if f"sha256:{sha.hexdigest()}" != digest:
            raise _not_attested(f"{path} is not what was signed")
        yield Path(f"/proc/self/fd/{file.fileno()}")
        after = os.fstat(file.fileno())
    # No writer can set this back.
    if (before.st_ctime_ns, before.st_size) != (after.st_ctime_ns, after.st_size):
        raise _not_attested(f"{path} was written to while it was loaded")


def public_id(public: bytes) -> str:
    """16 hex digits that name a key."""
    return hashlib.sha256(public).hexdigest()[:16]


def signed_content(manifest: Mapping[str, Any]) -> bytes:
    """What of a manifest is signed: everything but the signature."""
    return CONTEXT + canonical_json({name: value for name, value in manifest.items() if name != "signature"})


def decoded(keys: Iterable[str]) -> tuple[bytes, ...]:
    """Keys from base64. Raises ValueError, TypeError."""
    return tuple(base64.b64decode(key, validate=True) for key in keys)


def _manifest(bundle: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((bundle / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise _not_attested(f"{bundle / MANIFEST} cannot be read: {error}") from error


def _no_keys(why: str) -> Permanent:
    return Permanent(
        f"these are no public keys: {why}", remedy="give what `slipway store public-keys` prints"
    )


def _not_attested(what: str) -> NotAttested:
    return NotAttested(
        what,
        remedy="Nothing of it was loaded. Release the version again; find out who can write to the store.",
    )


def _not_signed(where: Path | str, what: str) -> NotSigned:
    return NotSigned(
        f"{where} {what}",
        remedy="Nothing of it was started. Release the version again: its bundle is built and signed anew. If"
        " a key of yours signed it and was given up, `slipway store sign BUNDLE` signs it with the present"
        " one. If nobody here changed it, find out who can write to the store.",
    )
