"""Who made a bundle: Ed25519 signatures (RFC 8032) over its manifest, which vouches for every file.

The keys are in one file beside the store, never in it, made on first use and readable by their owner only
(docs/decisions/0074). The first key signs; all of them verify, so that keys can rotate. A file may also hold
public keys alone (`public_part`): for machines that verify what others sign, such as a gate in a pod.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_store.attestation import KEY_BYTES as SEED_BYTES
from model_store.attestation import SCHEME, NotSigned, Trusted, decoded, public_id, signed_content
from model_store.durable import create_secret, write_file
from model_store.errors import Permanent

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Keyring", "NotSigned", "distrust_older", "key_id", "public_part", "rotate"]

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """`seeds`: the private keys, newest first; only the newest signs. `trusted`: public keys besides."""

    seeds: tuple[bytes, ...]
    trusted: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, path: Path, random_bytes: RandomBytes = os.urandom) -> Keyring:
        """The keys in `path`, made on first use. Two makers at once agree on one file.

        Raises `Permanent` when the file is there but holds no keys.
        """
        if not path.exists():
            create_secret(path, _encoded((random_bytes(SEED_BYTES),)))
        try:
            said = json.loads(path.read_text())
            seeds, trusted = decoded(said.get("keys", [])), decoded(said.get("public", []))
        except (ValueError, AttributeError, TypeError) as error:
            raise _unreadable(path, repr(error)) from error
        if not (seeds or trusted) or any(len(key) != SEED_BYTES for key in (*seeds, *trusted)):
            raise _unreadable(path, f"keys have {SEED_BYTES} bytes")
        return cls(seeds, trusted)

    @property
    def private(self) -> tuple[bytes, ...]:
        """The seeds. Raises `Permanent` where there are public keys alone."""
        if not self.seeds:
            raise Permanent(
                "the keys here are public ones: they verify, and sign nothing",
                remedy="publish, and rotate keys, where the installation's own bundle_keys.json is",
            )
        return self.seeds

    @property
    def trust(self) -> Trusted:
        """What a machine or pod needs that only verifies."""
        return Trusted(self.public_keys)

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """Of everybody whose signature is good here."""
        own = (_private(seed).public_key().public_bytes_raw() for seed in self.seeds)
        return tuple(dict.fromkeys((*own, *self.trusted)))

    def sign(self, manifest: Mapping[str, Any]) -> str:
        """`ed25519:<key id>:<base64>` over everything in the manifest but its `signature`.

        Raises `Permanent` where there are public keys alone.
        """
        key = _private(self.private[0])
        signature = base64.b64encode(key.sign(signed_content(manifest))).decode()
        return f"{SCHEME}:{key_id(self.private[0])}:{signature}"

    def seal(self, content: bytes) -> str:
        """A signature over other bytes than a manifest's, which say themselves what they are.

        Raises `Permanent` where there are public keys alone.
        """
        return base64.b64encode(_private(self.private[0]).sign(content)).decode()

    def require(self, manifest: Mapping[str, Any], where: Path) -> None:
        """Raises `NotSigned` unless one of these keys signed the manifest as it is."""
        self.trust.require(manifest, where)


def key_id(seed: bytes) -> str:
    """16 hex digits that name a key without telling it."""
    return public_id(_private(seed).public_key().public_bytes_raw())


def public_part(path: Path) -> bytes:
    """What a file for machines that only verify holds. Made anew after each rotation."""
    return Keyring.of(path).trust.written().encode()


def rotate(path: Path, random_bytes: RandomBytes = os.urandom) -> str:
    """Sign with a new key from now on, and go on trusting the others; returns the new key's id."""
    new = random_bytes(SEED_BYTES)
    _write(path, (new, *Keyring.of(path, random_bytes).private))
    return key_id(new)


def distrust_older(path: Path) -> list[str]:
    """Trust the newest key alone; returns the ids of the others. Bundles they signed are refused then."""
    seeds = Keyring.of(path).private
    _write(path, seeds[:1])
    return [key_id(seed) for seed in seeds[1:]]


def _private(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _encoded(seeds: tuple[bytes, ...]) -> bytes:
    return json.dumps({"keys": [base64.b64encode(seed).decode() for seed in seeds]}, indent=1).encode()


def _write(path: Path, seeds: tuple[bytes, ...]) -> None:
    umask = os.umask(0o077)
    try:
        write_file(path, _encoded(seeds))
    finally:
        os.umask(umask)


def _unreadable(path: Path, why: str) -> Permanent:
    return Permanent(
        f"{path} holds no signing keys: {why}",
        remedy="Restore it from a backup. If it is lost, move it away: new keys are made, and models have "
        "to be released again before anything can go back to them.",
    )
