"""The engine contract on every engine this machine can run; TensorRT's engine also on scripted bindings."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_store.engines.base import Engine, EngineOutOfMemory, UnknownEngine
from model_store.engines.cuda import CudaMemory
from model_store.engines.manifest import Manifest, Settings, read_manifest
from model_store.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from model_store.engines.registry import open_engine
from model_store.engines.tensorrt import TensorRtEngine
from model_store.errors import Permanent
from serving.pod.execution import Executor
from tests.bundles import make_bundle, model_of
from tests.contract.engine_contract import MOST_ROWS, SIGNATURE, EngineContract, rows


def has_gpu() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="no GPU here")


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    value = helper.make_tensor_value_info
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    model = model_of(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
        [two],
    )
    return make_bundle(tmp_path, model, serving={"max_batch_size": MOST_ROWS})


class TestOnnxRuntime(EngineContract):
    @pytest.fixture
    def engine(self, doubling: Path) -> Iterator[Engine]:
        engine = open_engine(read_manifest(doubling), environ={})
        yield engine
        engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers(), reason="no onnxruntime-gpu here"
)
class TestOnnxRuntimeCuda(EngineContract):
    @pytest.fixture
    def engine(self, doubling: Path) -> Iterator[Engine]:
        engine = open_engine(read_manifest(doubling), environ={"SLIPWAY_DEVICE": "cuda"})
        yield engine
        engine.close()


class HostMemory:
    """Stands in for a GPU: addresses are numbers of arrays, copies happen at once."""

    stream = 7

    def __init__(self, most_bytes: int = 10**9) -> None:
        self._blocks: dict[int, np.ndarray] = {}
        self._room = most_bytes
        self.pinned_bytes = 0
        self.is_current = False

    def activate(self) -> None:
        self.is_current = True

    def allocate(self, size: int) -> int:
        if size > self._room:
            raise EngineOutOfMemory("no room")
        self._room -= size
        self._blocks[len(self._blocks) + 1] = np.zeros(size, np.uint8)
        return len(self._blocks)

    def pinned(self, size: int) -> np.ndarray:
        if size > self._room:
            raise EngineOutOfMemory("no room")
        self.pinned_bytes += size
        return np.zeros(size, np.uint8)

    def upload(self, host: np.ndarray, device: int, size: int) -> None:
        assert self.is_current
        self._blocks[device][:size] = host[:size]

    def download(self, device: int, host: np.ndarray, size: int) -> None:
        host[:size] = self._blocks[device][:size]

    def add(self, source: int, target: int, size: int) -> None:
        values = self._blocks[source][:size].view(np.float32)
        self._blocks[target][:size].view(np.float32)[:] = values * 2

    def wait(self) -> None: ...

    def used_bytes(self) -> int:
        return sum(len(block) for block in self._blocks.values())

    def available_bytes(self) -> int:
        return self._room

    def free(self) -> None:
        self._blocks.clear()


class AddressableMemory(HostMemory):
    """Host memory by its real addresses, so that onnxruntime itself can be bound to it."""

    def allocate(self, size: int) -> int:
        block = self._blocks.pop(super().allocate(size))
        self._blocks[block.ctypes.data] = block
        return int(block.ctypes.data)


class TestOnnxRuntimeCudaOnTheHostsMemory(EngineContract):
    """The GPU engine's own binding and copying, with onnxruntime's CPU kernels between."""

    def open(self, bundle: Path, memory: HostMemory) -> OnnxRuntimeCudaEngine:
        return OnnxRuntimeCudaEngine(read_manifest(bundle), memory, ["CPUExecutionProvider"], device="cpu")

    @pytest.fixture
    def memory(self) -> AddressableMemory:
        return AddressableMemory()

    @pytest.fixture
    def engine(self, doubling: Path, memory: AddressableMemory) -> Iterator[OnnxRuntimeCudaEngine]:
        engine = self.open(doubling, memory)
        yield engine
        engine.close()

    def test_memory_grows_with_the_batch_and_is_then_used_again(
        self, engine: OnnxRuntimeCudaEngine, memory: AddressableMemory
    ) -> None:
        for count in (1, 2, 3, 5, MOST_ROWS):
            engine.run([rows(count)])
        grown = memory.used_bytes() + memory.pinned_bytes
        for count in (1, MOST_ROWS, 2):
            np.testing.assert_array_equal(engine.run([rows(count)])[0], 2 * rows(count))
        # Input on both sides and output, each at most twice the last doubling: twice the largest batch.
        assert memory.used_bytes() + memory.pinned_bytes == grown <= 3 * 4 * rows(MOST_ROWS).nbytes

    def test_a_batch_too_large_for_staging_is_computed_without(
        self, engine: OnnxRuntimeCudaEngine, memory: AddressableMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("model_store.engines.onnxruntime_cuda._STAGED_UP_TO", rows(4).nbytes)
        for count in (MOST_ROWS, 4, 1, MOST_ROWS):
            (found,) = engine.run([rows(count, start=count)])
            np.testing.assert_array_equal(found, 2 * rows(count, start=count))
        assert memory.pinned_bytes == rows(4).nbytes + rows(MOST_ROWS).nbytes

    def test_no_room_for_a_batch_is_out_of_memory_and_smaller_ones_are_computed_as_before(
        self, doubling: Path
    ) -> None:
        # Room for the input's new place, none for the rest.
        engine = self.open(doubling, AddressableMemory(most_bytes=rows(2).nbytes + rows(8).nbytes + 50))
        np.testing.assert_array_equal(engine.run([rows(2)])[0], 2 * rows(2))
        with pytest.raises(EngineOutOfMemory):
            engine.run([rows(MOST_ROWS)])
        np.testing.assert_array_equal(engine.run([rows(2, start=9)])[0], 2 * rows(2, start=9))
        engine.close()

    def test_an_output_of_unknown_shape_comes_back_whole(self, tmp_path: Path) -> None:
        value = helper.make_tensor_value_info
        model = model_of(
            [helper.make_node("NonZero", ["x"], ["y"])],
            [value("x", TensorProto.FLOAT, ["N", 3])],
            [value("y", TensorProto.INT64, [2, "M"])],
        )
        engine = self.open(make_bundle(tmp_path, model), AddressableMemory())
        for row, expected in (([0, 1, 2], [[0, 0], [1, 2]]), ([5, 0, 0], [[0], [0]])):
            np.testing.assert_array_equal(engine.run([np.array([row], np.float32)])[0], expected)
        engine.close()


class RealMemory(CudaMemory):
    """A real GPU that doubles floats by the host, to exercise every copy."""

    def add(self, source: int, target: int, size: int) -> None:
        staging = self.pinned(size)
        self.download(source, staging, size)
        self.wait()
        staging.view(np.float32)[:] *= 2
        self.upload(staging, target, size)


def scripted_bindings(memory: Any, least: int, most: int) -> Any:
    """As much of TensorRT's Python API as the engine uses, doubling x into y."""

    class Context:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.shape: tuple[int, ...] = (-1, 3)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
            assert name == "x"
            assert least <= shape[0] <= most, "outside the profile"
            self.shape = tuple(shape)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.shape

        def set_tensor_address(self, name: str, address: int) -> None:
            self.addresses[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == memory.stream
            memory.add(self.addresses["x"], self.addresses["y"], self.shape[0] * 12)
            return True

    profile = ((least, 3), (most, 3), (most, 3))
    engine = SimpleNamespace(
        create_execution_context=Context,
        get_tensor_profile_shape=lambda name, number: profile,
        device_memory_size_v2=100,
    )
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda data: engine if data != b"another GPU's" else None
    )

    class Logger:
        Severity = SimpleNamespace(WARNING=2)

    return SimpleNamespace(Runtime=lambda logger: runtime, ILogger=Logger)


@pytest.fixture
def plan(tmp_path: Path) -> Manifest:
    file = tmp_path / "model.plan"
    file.write_bytes(b"engine")
    return Manifest("id", "m", "1", "tensorrt", "fp32", "", file, None, SIGNATURE, Settings(), {}, {})


class TestTensorRtOnScriptedBindings(EngineContract):
    @pytest.fixture(params=[(1, MOST_ROWS), (MOST_ROWS, MOST_ROWS)], ids=["dynamic", "static"])
    def engine(self, request: pytest.FixtureRequest, plan: Manifest) -> Iterator[Engine]:
        memory = HostMemory()
        engine = TensorRtEngine(plan, scripted_bindings(memory, *request.param), memory)
        yield engine
        engine.close()
        assert memory.used_bytes() == 0


@pytest.mark.gpu
@needs_gpu
class TestTensorRtOnARealGpusMemory(EngineContract):
    @pytest.fixture
    def engine(self, plan: Manifest) -> Iterator[Engine]:
        memory = RealMemory()
        engine = TensorRtEngine(plan, scripted_bindings(memory, 1, MOST_ROWS), memory)
        yield engine
        engine.close()

    def test_memory_beyond_the_gpus_is_out_of_memory(self) -> None:
        memory = CudaMemory()
        with pytest.raises(EngineOutOfMemory):
            memory.allocate(2**45)
        memory.free()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("platform", ["tensorrt", "tensorrt_rtx"])
def test_a_real_tensorrt_engine_keeps_the_contract(platform: str, doubling: Path, plan: Manifest) -> None:
    pytest.importorskip("tensorrt" if platform == "tensorrt" else "tensorrt_rtx_bindings")
    from model_store.compile.engine_builder import build

    onnx_file = read_manifest(doubling).file
    request: dict[str, Any] = {
        "bindings": "tensorrt" if platform == "tensorrt" else "tensorrt_rtx_bindings",
        "model": str(onnx_file),
        "engine": str(plan.file),
        "max_batch_size": MOST_ROWS,
        "gpu_archs": [],
    }
    build(request)
    engine = open_engine(replace(plan, platform=platform), environ={})
    (found,) = Executor(engine, SIGNATURE, Settings()).run_arrays([rows(5)])
    np.testing.assert_array_equal(found, 2 * rows(5))
    engine.close()


def test_an_engine_made_for_another_gpu_says_so(plan: Manifest) -> None:
    plan.file.write_bytes(b"another GPU's")
    with pytest.raises(Permanent, match="does not take the engine"):
        TensorRtEngine(plan, scripted_bindings(HostMemory(), 1, 8), HostMemory())


def test_a_gpu_too_small_for_the_buffers_is_out_of_memory(plan: Manifest) -> None:
    memory = HostMemory(most_bytes=10)
    with pytest.raises(EngineOutOfMemory):
        TensorRtEngine(plan, scripted_bindings(memory, 1, 8), memory)


def test_an_unknown_platform_lists_the_known_ones(plan: Manifest) -> None:
    with pytest.raises(UnknownEngine, match="onnxruntime, onnxruntime_cuda, python, tensorrt, tensorrt_rtx"):
        open_engine(replace(plan, platform="caffe"), environ={})


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_the_remedy_is_named(plan: Manifest, doubling: Path) -> None:
    platform = "tensorrt_rtx" if importlib.util.find_spec("tensorrt_rtx_bindings") else "tensorrt"
    with pytest.raises(Permanent, match="onnxruntime candidate"):
        open_engine(replace(plan, platform=platform), environ={})
    with pytest.raises(Permanent, match="onnxruntime-gpu"):
        open_engine(read_manifest(doubling), environ={"SLIPWAY_DEVICE": "cuda"})
