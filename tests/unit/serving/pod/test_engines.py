"""The engine contract on every engine this machine can run; TensorRT's engine also on scripted bindings."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_store.engines.base import Engine, EngineOutOfMemory, UnknownEngine
from model_store.engines.cuda import CudaMemory
from model_store.engines.manifest import Manifest, Settings, read_manifest
from model_store.engines.onnxruntime_cuda import (
    GpuSetup,
    OnnxRuntimeCudaEngine,
    RecordedBatch,
    graph_sizes,
)
from model_store.engines.registry import open_engine
from model_store.engines.signature import Signature, tensor_spec
from model_store.engines.tensorrt import TensorRtEngine
from model_store.errors import Permanent
from serving.pod.execution import Executor
from tests.bundles import elementwise, make_bundle, model_of
from tests.contract.engine_contract import MOST_ROWS, SIGNATURE, EngineContract, rows
from tests.unit.serving.pod.calls import RememberedCall


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


ON_THE_HOST = GpuSetup.host()


@pytest.fixture
def recording_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host nothing is recorded, so nothing is gained."""
    monkeypatch.setattr(OnnxRuntimeCudaEngine, "_pays", lambda *_: True)


@pytest.mark.usefixtures("recording_pays")
class TestOnnxRuntimeCudaOnTheHost(EngineContract):
    """The GPU engine's own buffers, sizes and trials, with onnxruntime's CPU kernels between."""

    @pytest.fixture
    def engine(self, doubling: Path) -> Iterator[OnnxRuntimeCudaEngine]:
        manifest = read_manifest(doubling)
        engine = OnnxRuntimeCudaEngine(manifest, ON_THE_HOST, graph_sizes(manifest))
        yield engine
        engine.close()

    def test_sizes_double_up_to_the_largest_batch(self, engine: OnnxRuntimeCudaEngine) -> None:
        assert engine.profiles == engine.recorded == (1, 2, 4, 8)

    def test_a_size_that_is_not_recorded_is_computed(self, engine: OnnxRuntimeCudaEngine) -> None:
        np.testing.assert_array_equal(engine.run([rows(3)])[0], 2 * rows(3))


@pytest.mark.usefixtures("recording_pays")
def test_a_graph_that_replays_old_rows_is_never_served(
    doubling: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What onnxruntime does silently when a buffer has moved: the answers of the recorded rows again."""

    class Replaying(RecordedBatch):
        first: list[np.ndarray] | None = None

        def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = super().run(inputs)
            if len(inputs[0]) != 4:
                return found
            self.first = self.first or found
            return self.first

    monkeypatch.setattr("model_store.engines.onnxruntime_cuda.RecordedBatch", Replaying)
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (1, 4, 8))
    assert engine.recorded == (1, 8)
    assert "batches of 4 are not recorded: replayed, they gave other answers" in caplog.text
    np.testing.assert_array_equal(engine.run([rows(4)])[0], 2 * rows(4))


def test_what_is_slower_recorded_is_computed(doubling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([2.0] * 8 + [1.0] * 8 + [1.0] * 8 + [2.0] * 8)
    monkeypatch.setattr("model_store.engines.onnxruntime_cuda._seconds", lambda run: next(seconds))
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (4, 8))
    assert (engine.recorded, engine.profiles) == ((8,), (4, 8))
    assert engine.staging(4) is None


def test_large_models_are_recorded_for_fewer_sizes(doubling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recorded size has the weights again."""
    monkeypatch.setattr("model_store.engines.onnxruntime_cuda._SMALL_BYTES", 0)
    settings = Settings(max_batch_size=32)
    assert graph_sizes(replace(read_manifest(doubling), settings=settings)) == (1, 4, 16, 32)


@pytest.mark.usefixtures("recording_pays")
def test_a_gpu_that_is_lost_ends_the_pod_instead_of_halving_the_batch(
    doubling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (1, 2))
    ended: list[str] = []

    def end(why: str) -> NoReturn:
        ended.append(why)
        raise SystemExit

    def run(batch: RecordedBatch, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("Error in execution: CUDA failure 715: an illegal instruction was encountered")

    monkeypatch.setattr(RecordedBatch, "run", run)
    calls = [RememberedCall([n, n]) for n in range(2)]
    signature = Signature.of((tensor_spec("x", "FP32", [-1, 2]),), (tensor_spec("y", "FP32", [-1, 2]),))
    with pytest.raises(SystemExit):
        Executor(engine, signature, Settings(), end=end).execute(calls)
    assert ended == ["Error in execution: CUDA failure 715: an illegal instruction was encountered"]


class Cramped(RecordedBatch):
    """No room for more than `most` rows, as onnxruntime says it."""

    most = 4

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(inputs[0]) > self.most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 12345")
        return super().run(inputs)


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> type[Cramped]:
    monkeypatch.setattr("model_store.engines.onnxruntime_cuda.RecordedBatch", Cramped)
    monkeypatch.setattr(Cramped, "most", 4)
    return Cramped


@pytest.mark.usefixtures("recording_pays", "cramped")
def test_a_size_without_room_is_not_served_and_smaller_ones_are(doubling: Path) -> None:
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (1, 4, 8))
    assert engine.profiles == (1, 4)


@pytest.mark.usefixtures("recording_pays")
def test_memory_that_ran_out_while_serving_costs_the_larger_batches_and_no_answer(
    doubling: Path, cramped: type[Cramped]
) -> None:
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (1, 2, 4))
    executor = Executor(engine, SIGNATURE, Settings(max_batch_size=MOST_ROWS))
    cramped.most = 2
    np.testing.assert_array_equal(executor.run_arrays([rows(4)])[0], 2 * rows(4))
    assert engine.profiles == (1, 2)
    np.testing.assert_array_equal(executor.run_arrays([rows(7)])[0], 2 * rows(7))


@pytest.mark.usefixtures("recording_pays")
def test_a_model_without_room_for_a_single_row_is_refused(doubling: Path, cramped: type[Cramped]) -> None:
    cramped.most = 0
    with pytest.raises(Permanent, match="does not fit the GPU"):
        OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (1, 4, 8))


@pytest.mark.parametrize(
    ("tensor", "sizes"),
    [
        ((TensorProto.FLOAT, ["N", 3]), (1, 2, 4, 8)),
        ((TensorProto.FLOAT, [4, 3]), (1,)),
        ((TensorProto.FLOAT, ["N", "T"]), ()),
        ((TensorProto.FLOAT, [2, "T"]), ()),
        ((TensorProto.STRING, ["N", 3]), ()),
        ((TensorProto.BFLOAT16, ["N", 3]), ()),
    ],
)
def test_only_what_rows_tell_the_shapes_of_is_recorded(
    tmp_path: Path, tensor: tuple[int, list[int | str]], sizes: tuple[int, ...]
) -> None:
    bundle = make_bundle(tmp_path, elementwise("Identity", *tensor), serving={"max_batch_size": MOST_ROWS})
    assert graph_sizes(read_manifest(bundle)) == sizes


def test_an_output_of_unknown_shape_comes_back_whole(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    model = model_of(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.INT64, [2, "M"])],
    )
    manifest = read_manifest(make_bundle(tmp_path, model))
    assert graph_sizes(manifest) == ()
    engine = OnnxRuntimeCudaEngine(manifest, ON_THE_HOST)
    for row, expected in (([0, 1, 2], [[0, 0], [1, 2]]), ([5, 0, 0], [[0], [0]])):
        np.testing.assert_array_equal(engine.run([np.array([row], np.float32)])[0], expected)
    engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers(), reason="no onnxruntime-gpu here"
)
def test_a_batch_beyond_the_gpus_memory_is_cut_down_and_other_models_go_on(
    tmp_path: Path, doubling: Path
) -> None:
    """A row takes 3 GB on its way, in tensors that are all needed at once: on no GPU do 64 rows fit."""
    value = helper.make_tensor_value_info
    factors = range(1, 49)
    model = model_of(
        [
            helper.make_node("Expand", ["x", "wide"], ["grown"]),
            *(helper.make_node("Mul", ["grown", f"c{n}"], [f"g{n}"]) for n in factors),
            helper.make_node("Sum", [f"g{n}" for n in factors], ["all"]),
            helper.make_node("ReduceMax", ["all"], ["y"], axes=[1]),
        ],
        [value("x", TensorProto.FLOAT, ["N", 1])],
        [value("y", TensorProto.FLOAT, ["N", 1])],
        [
            numpy_helper.from_array(np.array([1, 2**24]), "wide"),
            *(numpy_helper.from_array(np.array(n, np.float32), f"c{n}") for n in factors),
        ],
    )
    greedy = read_manifest(make_bundle(tmp_path / "greedy", model, serving={"max_batch_size": 64}))
    environ = {"SLIPWAY_DEVICE": "cuda"}
    small, large = open_engine(read_manifest(doubling), environ), open_engine(greedy, environ)
    executor = Executor(large, greedy.signature, Settings(max_batch_size=64))
    batch = np.arange(64, dtype=np.float32).reshape(64, 1)
    np.testing.assert_array_equal(executor.run_arrays([batch])[0], batch * sum(factors))
    np.testing.assert_array_equal(small.run([rows(3)])[0], 2 * rows(3))
    small.close()
    large.close()


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
