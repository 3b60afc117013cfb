"""The little of CUDA's driver API that an engine needs: pinned and device memory, one stream.

Through ctypes, because libcuda.so.1 comes with every GPU driver and nothing else has to be installed.
Source: CUDA driver API reference, sections 6.7 (context), 6.13 (memory), 6.18 (streams).
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np

from model_store.engines.base import EngineOutOfMemory
from model_store.errors import Permanent

_OUT_OF_MEMORY = 2
_PORTABLE = 1


class Memory(Protocol):
    """What engines ask of a GPU; tests run them on the host's own memory."""

    stream: int

    def activate(self) -> None:
        """Make the GPU current on the calling thread."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes; its address. Raises `EngineOutOfMemory`."""
        ...

    def pinned(self, size: int) -> np.ndarray:
        """Host memory the GPU copies from and to without a detour, as bytes."""
        ...

    def upload(self, host: np.ndarray, device: int, size: int) -> None: ...

    def download(self, device: int, host: np.ndarray, size: int) -> None: ...

    def wait(self) -> None:
        """Until everything queued on the stream is done."""
        ...

    def used_bytes(self) -> int:
        """What was allocated here."""
        ...

    def available_bytes(self) -> int:
        """What the whole GPU has left."""
        ...

    def free(self) -> None: ...


class CudaMemory:
    """One GPU's memory, for one engine. Raises `Permanent` where there is no GPU."""

    def __init__(self, device: int = 0) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Permanent(f"no GPU driver: {error}", remedy="serve the onnxruntime candidate") from error
        self._ordinal = device
        self._check(self._cuda.cuInit(0))
        handle = ctypes.c_int()
        self._check(self._cuda.cuDeviceGet(ctypes.byref(handle), device))
        self._device = handle
        self._context = ctypes.c_void_p()
        self._check(self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), handle))
        self.activate()
        stream = ctypes.c_void_p()
        self._check(self._cuda.cuStreamCreate(ctypes.byref(stream), 0))
        self.stream = int(stream.value or 0)
        self._allocated: list[int] = []
        self._pinned: list[int] = []
        self._used = 0

    def activate(self) -> None:
        self._check(self._cuda.cuCtxSetCurrent(self._context))

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._check(self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(max(size, 1))))
        self._allocated.append(int(address.value))
        self._used += size
        return int(address.value)

    def pinned(self, size: int) -> np.ndarray:
        address = ctypes.c_void_p()
        self._check(
            self._cuda.cuMemHostAlloc(ctypes.byref(address), ctypes.c_size_t(max(size, 1)), _PORTABLE)
        )
        self._pinned.append(int(address.value or 0))
        pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
        return np.ctypeslib.as_array(pointer, (max(size, 1),))

    def upload(self, host: np.ndarray, device: int, size: int) -> None:
        source, count = ctypes.c_void_p(host.ctypes.data), ctypes.c_size_t(size)
        self._check(self._cuda.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(device), source, count, self._queue()))

    def download(self, device: int, host: np.ndarray, size: int) -> None:
        target, count = ctypes.c_void_p(host.ctypes.data), ctypes.c_size_t(size)
        self._check(self._cuda.cuMemcpyDtoHAsync_v2(target, ctypes.c_uint64(device), count, self._queue()))

    def copy(self, source: int, target: int, size: int) -> None:
        """Device to device."""
        addresses = ctypes.c_uint64(target), ctypes.c_uint64(source)
        self._check(self._cuda.cuMemcpyDtoDAsync_v2(*addresses, ctypes.c_size_t(size), self._queue()))

    def wait(self) -> None:
        self._check(self._cuda.cuStreamSynchronize(self._queue()))

    def used_bytes(self) -> int:
        return self._used

    def available_bytes(self) -> int:
        left, whole = ctypes.c_size_t(), ctypes.c_size_t()
        self._check(self._cuda.cuMemGetInfo_v2(ctypes.byref(left), ctypes.byref(whole)))
        return int(left.value)

    def free(self) -> None:
        self.activate()
        for address in self._allocated:
            self._cuda.cuMemFree_v2(ctypes.c_uint64(address))
        for address in self._pinned:
            self._cuda.cuMemFreeHost(ctypes.c_void_p(address))
        self._cuda.cuStreamDestroy_v2(self._queue())
        self._cuda.cuDevicePrimaryCtxRelease_v2(self._device)
        self._allocated, self._pinned, self._used = [], [], 0

    def _queue(self) -> Any:
        return ctypes.c_void_p(self.stream)

    def _check(self, code: int) -> None:
        if code == _OUT_OF_MEMORY:
            raise EngineOutOfMemory("the GPU has no such memory left")
        if code:
            name = ctypes.c_char_p()
            self._cuda.cuGetErrorName(code, ctypes.byref(name))
            words = (name.value or b"").decode() or str(code)
            raise Permanent(f"CUDA says {words}", remedy="check nvidia-smi and the driver's log")
