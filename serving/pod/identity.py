"""What makes two requests the same, as bytes that every replica agrees on."""

from __future__ import annotations

import orjson
from blake3 import blake3

from serving.pod.call import Call

DIGEST_BYTES = 32


def digest(call: Call) -> bytes:
    """32 bytes over the shapes and the canonical input bytes (BYTES elements with their lengths)."""
    hasher = blake3(orjson.dumps(call.shapes))
    for part in call.data:
        if isinstance(part, list):
            for element in part:
                hasher.update(b"%d:" % len(element))
                hasher.update(element)
        else:
            hasher.update(part)
    found: bytes = hasher.digest()
    return found
