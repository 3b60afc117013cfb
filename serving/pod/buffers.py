"""Where the bytes of requests are received: small ones by way of one place, large ones where they stay.

A body of 150 kB that came as pieces, each a `bytes` of its own, was copied up to six times on its way.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

# What one read takes of requests that are not large.
_SCRATCH_BYTES = 256_000


class Buffers(Protocol):
    """Gives memory to receive large bodies into; it is free again once nobody has a view of it."""

    def take(self, size: int) -> memoryview:
        """Writable memory of so many bytes, holding anything."""
        ...


class OwnBuffers:
    """Memory of this process."""

    def take(self, size: int) -> memoryview:
        return np.empty(size, np.uint8).data


def scratch() -> memoryview:
    """For all connections of an event loop: what was read into it is dealt with before the next read."""
    return memoryview(bytearray(_SCRATCH_BYTES))
