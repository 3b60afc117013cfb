"""onnxruntime on a GPU (SLIPWAY_DEVICE=cuda, package onnxruntime-gpu): CUDA graphs, where models take them.

A small model spends most of a batch in launching one kernel after another. A CUDA graph is that sequence,
recorded once and launched as one. It replays fixed addresses and shapes, so every recorded batch size has a
session and buffers of its own which stay where they are; the pod pads a batch to the next of them
(`profiles`). Models that no graph can hold (text, free dimensions, If and Loop, operators that only the CPU
has) run as `InferenceSession.run` does. Sources: onnxruntime's documentation, "CUDA Execution Provider"
(Using CUDA Graphs) and "I/O Binding"; measured in docs/decisions/0136.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from model_store.engines import gpu, nvml
from model_store.engines.base import Engine, EngineLost, EngineOutOfMemory
from model_store.engines.manifest import Manifest
from model_store.engines.onnxruntime import OUT_OF_MEMORY, OnnxRuntimeEngine, open_session
from model_store.engines.signature import TensorSpec
from model_store.errors import Permanent

log = logging.getLogger("slipway.pod")

CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# After these the process has no GPU any more: every later call fails, whatever it is.
_LOST = re.compile(
    r"CUDA failure (46|100|214|700|702|709|710|71[4-9]|720|999)\b|CUDNN_STATUS_EXECUTION_FAILED"
    r"|illegal (memory access|instruction|address)|unspecified launch failure|device-side assert"
    r"|uncorrectable ECC"
)
# A graph is recorded on a run after the first, and from then on replayed.
_RUNS_UNTIL_RECORDED = 3
# The fastest of so many is compared: what else the machine does only ever adds.
_TIMED_RUNS = 8
# Of the largest answer: how far a replayed batch may be from one that was computed without a graph.
_TOLERANCE = 1e-2
_SMALL_BYTES = 64 * 2**20
# Of the environment: 0 records nothing.
SWITCH = "SLIPWAY_CUDA_GRAPHS"
# While a graph is recorded, nothing else in the process may allocate or wait on the GPU.
_gpu_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class GpuSetup:
    """Where sessions run: onnxruntime's providers, to compute with and to record with, and their device.

    `provider` has to run the model. Of one that is a plugin, `devices` are what it told of, and providers
    are its options. Tests run all but the recording itself on the host.
    """

    computing: Sequence[Any]
    recording: Sequence[Any]
    device: str = "cuda"
    provider: str = CUDA
    devices: Sequence[Any] = ()

    @classmethod
    def cuda(cls) -> GpuSetup:
        """The first GPU that the process sees (`CUDA_VISIBLE_DEVICES` chooses).

        The arena grows by what is asked for, not by doubling: several models share one GPU.
        """
        options = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}
        recording = {**options, "enable_cuda_graph": "1"}
        return cls([(CUDA, options), _CPU], [(CUDA, recording), _CPU])

    @classmethod
    def host(cls) -> GpuSetup:
        return cls([_CPU], [_CPU], "cpu")


class RecordedBatch:
    """One batch size, recorded: device memory that stays, and host memory the GPU copies from directly.

    It has a session of its own. In a session that meets another batch size, cuDNN plans its convolutions
    anew and unloads the kernels that a recorded graph still points at (an illegal instruction, which ends
    the process; MobileNet on an H200).
    """

    def __init__(self, manifest: Manifest, setup: GpuSetup, rows: int, file: Path) -> None:
        signature, device = manifest.signature, setup.device
        self._session = open_session(manifest, setup.recording, devices=setup.devices, file=file)
        self._binding = self._session.io_binding()
        self._inputs = [_buffer(spec, rows, device) for spec in signature.inputs]
        self._outputs = [_buffer(spec, rows, device) for spec in signature.outputs]
        # OrtValues own their memory, the arrays only look at it: both are kept.
        self._pinned = [gpu.pinned(_shape(spec, rows), spec) for spec in signature.inputs]
        self.staging = [value.numpy() for value in self._pinned]
        for spec, value in zip(signature.inputs, self._inputs, strict=True):
            self._binding.bind_ortvalue_input(spec.name, value)
        for spec, value in zip(signature.outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(spec.name, value)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of arrays of this very size, or of `staging` itself. What comes back is the caller's own."""
        for staging, value, array in zip(self.staging, self._inputs, inputs, strict=True):
            if array is not staging:
                np.copyto(staging, array)
            value.update_inplace(staging)
        self._session.run_with_iobinding(self._binding)
        # numpy() of memory on the host looks at it, of memory on the GPU copies.
        return [
            value.numpy() if value.device_name() != "cpu" else value.numpy().copy() for value in self._outputs
        ]


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """`sizes`: the batch sizes to record, none for a model that no graph can hold.

    A session whose batch did not fit keeps what it had taken: it is opened anew, for smaller batches.
    """

    platform = "onnxruntime_cuda"

    def __init__(self, manifest: Manifest, setup: GpuSetup, sizes: Sequence[int] = ()) -> None:
        self._manifest, self._setup, self._is_batched = manifest, setup, manifest.signature.is_batched
        if manifest.platform != "onnxruntime":
            self.platform = manifest.platform
        self._recorded: dict[int, RecordedBatch] = {}
        with _gpu_lock:
            self._free_before = nvml.free_bytes()
            self._load(sizes)

    @property
    def session(self) -> ort.InferenceSession:
        """onnxruntime's own, for whoever asks what runs where."""
        return self._session

    @property
    def recorded(self) -> tuple[int, ...]:
        """The batch sizes that are replayed as graphs; 1 for a model without batches."""
        return tuple(sorted(self._recorded))

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        rows = len(inputs[0]) if self._is_batched else 1
        recorded = self._recorded.get(rows)
        with _gpu_lock:
            try:
                return recorded.run(inputs) if recorded else super().run(inputs)
            except Exception as error:
                if is_lost(error):
                    raise EngineLost(str(error)) from error
                if not _is_out_of_memory(error):
                    raise
                problem = str(error)
            # Not while the error is handled: its traceback keeps the session, and with it the memory.
            recorded = None
            self._load([size for size in self._sizes if size < rows])
            raise EngineOutOfMemory(problem)

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        """See `Engine`."""
        recorded = self._recorded.get(rows if self._is_batched else 1)
        return recorded.staging if recorded else None

    def settle(self) -> None:
        """See `ThreadBound`: onnxruntime keeps its handles and its graphs by thread, so that what one thread
        recorded another records again, in its first batch, while others wait."""
        with _gpu_lock:
            samples = _Samples(self._manifest)
            for rows in self.recorded:
                if not self._records_here(rows, samples):
                    del self._recorded[rows]

    def _records_here(self, rows: int, samples: _Samples) -> bool:
        batch = self._recorded[rows]
        try:
            for _ in range(_RUNS_UNTIL_RECORDED):
                batch.run(samples.batch(rows, 0))
            return self._replays_rightly(batch, samples, rows)
        except Exception as error:
            if is_lost(error):
                raise EngineLost(str(error)) from error
            log.warning("batches of %d are not recorded: %s", rows, str(error).partition("\n")[0][:300])
            return False

    def memory_bytes(self) -> int:
        """What the GPU has less than before the model was loaded: the model's, where nobody else loads."""
        return max(0, self._free_before - nvml.free_bytes())

    def close(self) -> None:
        with _gpu_lock:
            self._recorded.clear()
            super().close()

    def _load(self, sizes: Sequence[int]) -> None:
        """Open a session for batches of these sizes, or of those of them that the GPU has room for."""
        with self._manifest.loading() as file:
            self._load_from(file, sizes)

    def _load_from(self, file: Path, sizes: Sequence[int]) -> None:
        self._sizes: tuple[int, ...] = tuple(sorted(sizes))
        while (too_many := self._opened(file, self._sizes)) is not None:
            log.warning("batches of %d are not served: the GPU has no room for them", too_many)
            self._sizes = tuple(size for size in self._sizes if size < too_many)
            if not self._sizes:
                raise Permanent(
                    f"{self._manifest.name} does not fit the GPU: {nvml.free_bytes() >> 20:,} MB are free",
                    remedy="give it a GPU of its own, or release a smaller precision",
                )
        self.profiles = self._sizes if self._is_batched else ()

    def _opened(self, file: Path, sizes: Sequence[int]) -> int | None:
        """The batch size there is no room for; None if all are."""
        self._recorded.clear()
        self._session = None
        computing, devices = self._setup.computing, self._setup.devices
        session = open_session(self._manifest, computing, gpu.RECORD_PLACEMENT, devices=devices, file=file)
        super().__init__(self._manifest, session)
        samples = _Samples(self._manifest)
        for rows in sorted(sizes):
            try:
                self._record(file, rows, samples)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                return rows
        # Once more, now that all are there: what one of them broke in another would show while serving.
        for rows, batch in self._recorded.items():
            if not self._replays_rightly(batch, samples, rows):
                raise RuntimeError(f"recorded batches of {rows} were changed by those recorded after them")
        return None

    def _record(self, file: Path, rows: int, samples: _Samples) -> None:
        """If it is right and pays."""
        batch = RecordedBatch(self._manifest, self._setup, rows, file)
        for _ in range(_RUNS_UNTIL_RECORDED):
            batch.run(samples.batch(rows, 0))
        if self._replays_rightly(batch, samples, rows) and self._pays(batch, samples, rows):
            self._recorded[rows] = batch

    def _replays_rightly(self, batch: RecordedBatch, samples: _Samples, rows: int) -> bool:
        """With two different inputs: a graph that does not notice new rows answers the old ones."""
        for start in (1, 0):
            inputs = samples.batch(rows, start)
            replayed, computed = batch.run(inputs), super().run(inputs)
            if not all(map(_is_near, replayed, computed)):
                log.warning("batches of %d are not recorded: replayed, they gave other answers", rows)
                return False
        return True

    def _pays(self, batch: RecordedBatch, samples: _Samples, rows: int) -> bool:
        """Whether replaying is faster than computing, with rows where the pod writes them."""
        ways = partial(batch.run, batch.staging), partial(super().run, samples.batch(rows, 0))
        replayed, computed = (min(_seconds(way) for _ in range(_TIMED_RUNS)) for way in ways)
        if replayed > computed:
            log.info("batches of %d are not recorded: it takes %.2f times as long", rows, replayed / computed)
        return replayed <= computed


class _Samples:
    """Rows to record and to try with: the bundle's own, or made-up ones where it has none."""

    def __init__(self, manifest: Manifest) -> None:
        self._signature = manifest.signature
        self._rows: dict[str, np.ndarray] = {}
        if manifest.warmup is not None:
            with np.load(manifest.warmup) as kept:
                self._rows = {name: kept[name] for name in kept.files}

    def batch(self, rows: int, start: int) -> list[np.ndarray]:
        """So many rows, beginning with the one numbered `start`."""
        return [self._array(spec, rows, start) for spec in self._signature.inputs]

    def _array(self, spec: TensorSpec, rows: int, start: int) -> np.ndarray:
        kept = self._rows.get(spec.name)
        if kept is None or not len(kept):
            return np.full(_shape(spec, rows), start, spec.datatype.dtype)
        if not self._signature.is_batched:
            return np.ascontiguousarray(kept, dtype=spec.datatype.dtype)
        return np.ascontiguousarray(kept[(start + np.arange(rows)) % len(kept)], dtype=spec.datatype.dtype)


def open_engine(manifest: Manifest, environ: Mapping[str, str] = os.environ) -> Engine:
    """Raises `Permanent` without onnxruntime-gpu or a GPU, and where nothing of the model runs on it."""
    if CUDA not in ort.get_available_providers():
        raise Permanent(
            "this onnxruntime has no CUDA", remedy="install onnxruntime-gpu instead of onnxruntime"
        )
    return open_on_gpu(manifest, GpuSetup.cuda(), environ)


def open_on_gpu(manifest: Manifest, setup: GpuSetup, environ: Mapping[str, str]) -> OnnxRuntimeCudaEngine:
    """With graphs where the model takes them. Raises `Permanent` where the provider does not run it."""
    # CUDA and cuDNN as pip installs them (onnxruntime-gpu[cuda,cudnn]) are on no library path.
    ort.preload_dlls()
    expect_room(manifest, nvml.free_bytes())
    sizes = graph_sizes(manifest)
    engine = _with_graphs(manifest, setup, sizes) if sizes and environ.get(SWITCH) != "0" else None
    if engine is None:
        engine = _without_graphs(manifest, setup)
    _expect_gpu(engine, manifest, setup.provider)
    return engine


def graph_sizes(manifest: Manifest) -> tuple[int, ...]:
    """Batch sizes worth recording: doubling up to the largest, of large models four times the one before, for
    each has the weights again. None where rows do not tell all shapes.
    """
    signature = manifest.signature
    tensors = signature.inputs + signature.outputs
    if any(not spec.datatype.size or spec.datatype.name == "BF16" for spec in tensors):
        return ()
    if not signature.is_batched:
        return () if any(-1 in spec.shape for spec in tensors) else (1,)
    if any(-1 in spec.shape[1:] for spec in tensors):
        return ()
    most = manifest.settings.max_batch_size
    factor = 2 if manifest.file.stat().st_size <= _SMALL_BYTES else 4
    sizes = {most}
    while (size := factor ** (len(sizes) - 1)) < most:
        sizes.add(size)
    return tuple(sorted(sizes))


def _with_graphs(manifest: Manifest, setup: GpuSetup, sizes: Sequence[int]) -> OnnxRuntimeCudaEngine | None:
    """None where onnxruntime cannot record this model; it says so when it opens it, or in the first runs."""
    try:
        return OnnxRuntimeCudaEngine(manifest, setup, sizes)
    except (EngineOutOfMemory, Permanent):
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0][:300]
        if is_lost(error):
            raise Permanent(
                f"recording {manifest.name} as CUDA graphs took the GPU from this process: {first_line}",
                remedy=f"start it with {SWITCH}=0: it then runs without graphs",
            ) from error
        log.info("%s runs without CUDA graphs: %s", manifest.name, first_line)
        return None


def expect_room(manifest: Manifest, free: int) -> None:
    """Refuse what took more at its gate than the GPU has free, rather than take what others serve from.

    0 where nobody counted, on either side: then it is tried.
    """
    need = manifest.gpu_memory_bytes
    if 0 < free < need:
        raise Permanent(
            f"{manifest.name} takes {need >> 20:,} MB of GPU memory, as its gate measured, and"
            f" {free >> 20:,} MB are free beside what is loaded",
            remedy="give it a GPU of its own, keep fewer models on this one, or release a smaller precision",
        )


def _without_graphs(manifest: Manifest, setup: GpuSetup) -> OnnxRuntimeCudaEngine:
    try:
        return OnnxRuntimeCudaEngine(manifest, setup)
    except (EngineOutOfMemory, Permanent):
        raise
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0][:300]
        raise Permanent(
            f"onnxruntime cannot load {manifest.name} with {setup.provider}: {first_line}",
            remedy="release the version again; check nvidia-smi, CUDA and the pod's log",
        ) from error


def _expect_gpu(engine: OnnxRuntimeCudaEngine, manifest: Manifest, provider: str) -> None:
    """onnxruntime turns to the CPU without a word. What serves is looked at, and told."""
    if provider not in engine.session.get_providers():
        engine.close()
        raise Permanent(
            "onnxruntime cannot use the GPU", remedy="check nvidia-smi, CUDA and cuDNN; see the pod's log"
        )
    placed = gpu.placement(engine.session)
    if placed and not placed[provider]:
        engine.close()
        raise Permanent(
            f"no operator of {manifest.name} runs on the GPU: {provider} has none of"
            f" {', '.join(sorted(placed))}",
            remedy="start the pod without SLIPWAY_DEVICE, or release another precision",
        )
    log.info("%s on the GPU: operators %s; recorded batches %s", manifest.name, dict(placed), engine.recorded)


def _buffer(spec: TensorSpec, rows: int, device: str) -> Any:
    dtype = spec.datatype.dtype
    if device == "cpu":
        return ort.OrtValue.ortvalue_from_shape_and_type(list(_shape(spec, rows)), dtype)
    return ort.OrtValue.ortvalue_from_shape_and_type(list(_shape(spec, rows)), dtype, device, 0)


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return tuple(rows if size == -1 else size for size in spec.shape)


def _is_near(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.dtype.kind not in "fc":
        return bool(np.array_equal(found, expected))
    finite = np.abs(expected[np.isfinite(expected)])
    room = _TOLERANCE * float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(found, expected, rtol=_TOLERANCE, atol=room, equal_nan=True))


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def is_lost(error: Exception) -> bool:
    """Whether this process can do nothing with its GPU any more (CUDA's documentation, "sticky" errors)."""
    return bool(_LOST.search(str(error)))


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, EngineOutOfMemory) or any(words in str(error) for words in OUT_OF_MEMORY)
