"""The engine contract on every engine this machine can run, and what each is besides."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_store.attestation import unchanged
from model_store.compile import CompileSpec
from model_store.compile.engines import TensorRTCompiler
from model_store.engines import nvml
from model_store.engines.base import Engine, UnknownEngine
from model_store.engines.manifest import BuiltFile, Manifest, Settings, read_manifest
from model_store.engines.onnxruntime_cuda import (
    SWITCH,
    GpuSetup,
    OnnxRuntimeCudaEngine,
    RecordedBatch,
    expect_room,
    graph_sizes,
    open_on_gpu,
)
from model_store.engines.onnxruntime_tensorrt import engine_for, misfit
from model_store.engines.registry import open_engine
from model_store.engines.signature import Signature, tensor_spec
from model_store.errors import Permanent
from model_store.signing import Keyring
from model_store.storage.store import Store
from model_store.types import Artifact
from serving.pod.execution import Executor
from tests.bundles import elementwise, make_bundle, model_of
from tests.contract.engine_contract import MOST_ROWS, SIGNATURE, EngineContract, rows
from tests.pods import running_pod
from tests.small_models import keep
from tests.unit.serving.pod.calls import RememberedCall


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


@pytest.mark.usefixtures("recording_pays")
def test_the_threads_that_serve_have_recorded_every_size_before_the_first_request(
    doubling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime keeps graphs by thread: the first request used to wait for another recording."""
    ran: dict[str, list[int]] = {}

    class Watched(RecordedBatch):
        def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            ran.setdefault(threading.current_thread().name, []).append(len(inputs[0]))
            return super().run(inputs)

    def opened(manifest: Manifest) -> OnnxRuntimeCudaEngine:
        return OnnxRuntimeCudaEngine(manifest, ON_THE_HOST, graph_sizes(manifest))

    monkeypatch.setattr("model_store.engines.onnxruntime_cuda.RecordedBatch", Watched)
    monkeypatch.setattr("serving.pod.opened.open_engine", opened)
    with running_pod(doubling) as pod:
        model = pod.pod.repository.models[0]
        assert sorted(set(ran["compute"])) == [1, 2, 4, 8]
        # Short batches run on the loop, whose thread the test's pod has named nothing.
        others = [name for name in ran if name not in ("compute", "load_0")]
        assert bool(others) == (model.batcher._inline)


@pytest.mark.usefixtures("recording_pays")
def test_what_replays_wrongly_on_another_thread_is_computed_there(
    doubling: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = threading.current_thread()

    class Elsewhere(RecordedBatch):
        def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = super().run(inputs)
            return found if threading.current_thread() is home or len(inputs[0]) != 4 else [found[0] + 1]

    monkeypatch.setattr("model_store.engines.onnxruntime_cuda.RecordedBatch", Elsewhere)
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (1, 4, 8))
    assert engine.recorded == (1, 4, 8)
    thread = threading.Thread(target=engine.settle)
    thread.start()
    thread.join()
    assert engine.recorded == (1, 8)
    np.testing.assert_array_equal(engine.run([rows(4)])[0], 2 * rows(4))


def test_what_is_slower_recorded_is_computed(doubling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([2.0] * 8 + [1.0] * 8 + [1.0] * 8 + [2.0] * 8)
    monkeypatch.setattr("model_store.engines.onnxruntime_cuda._seconds", lambda run: next(seconds))
    engine = OnnxRuntimeCudaEngine(read_manifest(doubling), ON_THE_HOST, (4, 8))
    assert (engine.recorded, engine.profiles) == ((8,), (4, 8))
    assert engine.staging(4) is None


@pytest.mark.usefixtures("recording_pays")
def test_a_models_bytes_are_verified_once_for_all_sizes(
    doubling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing a file of gigabytes takes a second for each."""
    manifest = read_manifest(doubling)
    verified: list[Path] = []

    @contextmanager
    def counted(path: Path, digest: str) -> Iterator[Path]:
        verified.append(path)
        with unchanged(path, digest) as same:
            yield same

    monkeypatch.setattr("model_store.engines.manifest.unchanged", counted)
    trusted = replace(manifest, trusted=Keyring.of(tmp_path / "keys.json").trust)
    assert OnnxRuntimeCudaEngine(trusted, ON_THE_HOST, (1, 4, 8)).recorded == (1, 4, 8)
    assert verified == [manifest.file]


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


def tensorrt_bundle(folder: Path, doubling: Path) -> Manifest:
    """The same model as an engine, built here and now."""
    source = read_manifest(doubling)
    store = Store(folder / "store")
    made = TensorRTCompiler(store).compile(
        keep(store, source.file.read_bytes()), CompileSpec(max_batch_size=MOST_ROWS)
    )
    assert isinstance(made, Artifact), made
    return replace(
        source, platform="tensorrt", file=made.path, digest=made.digest, toolchain=asdict(made.toolchain)
    )


def has_tensorrt() -> bool:
    try:
        ctypes.CDLL("libnvinfer.so.10")
    except OSError:
        return False
    return nvml.architecture() != "" and importlib.util.find_spec("tensorrt_bindings") is not None


needs_tensorrt = pytest.mark.skipif(not has_tensorrt(), reason="no TensorRT, or no GPU for it")


@pytest.mark.gpu
@needs_tensorrt
class TestTensorRt(EngineContract):
    """A real engine, built on this GPU."""

    @pytest.fixture
    def engine(self, doubling: Path, tmp_path: Path) -> Iterator[Engine]:
        engine = open_engine(tensorrt_bundle(tmp_path, doubling), environ={})
        assert engine.platform == "tensorrt"
        yield engine
        engine.close()

    def test_engines_of_others_and_damaged_ones_are_refused_in_words(
        self, doubling: Path, tmp_path: Path
    ) -> None:
        built = tensorrt_bundle(tmp_path, doubling)
        for changed, said in (
            ({"gpu_arch": "SM80"}, "built for GPU SM80, this one is SM"),
            ({"version": "10.1.0"}, "built for tensorrt 10.1.0, here is"),
        ):
            other = replace(built, toolchain={**built.toolchain, **changed})
            with pytest.raises(Permanent, match=said):
                open_engine(other, environ={})
        whole = built.file.read_bytes()
        at = len(whole) // 2
        for broken in (whole[:at], whole[:at] + bytes(64) + whole[at + 64 :], b""):
            file = tmp_path / "broken.onnx"
            file.write_bytes(broken)
            with pytest.raises(Permanent, match="is damaged"):
                open_engine(replace(built, file=file), environ={})


@pytest.fixture
def engine_bundle(doubling: Path) -> Manifest:
    """A file that no provider here can run."""
    return replace(read_manifest(doubling), platform="tensorrt")


@pytest.mark.parametrize(
    ("built", "here", "said"),
    [
        (("SM90", "10.15.1.29"), ("SM89", "10.15.1"), "GPU SM90, this one is SM89"),
        (("SM90", "10.15.1.29"), ("SM90", "10.6.0"), "tensorrt 10.15.1, here is 10.6.0"),
        (("SM80+", "1.7.1"), ("SM75", ""), r"GPU SM80\+, this one is SM75"),
        (("SM86+SM89", "1.7.1"), ("SM90", ""), r"GPU SM86\+SM89, this one is SM90"),
        (("SM90", "10.6.0.post1"), ("SM100", "10.6.1"), "GPU SM90.* and tensorrt 10.6.0, here is 10.6.1"),
    ],
)
def test_an_engine_built_for_others_is_refused_with_both_sides(
    engine_bundle: Manifest, built: tuple[str, str], here: tuple[str, str], said: str
) -> None:
    manifest = replace(engine_bundle, toolchain={"gpu_arch": built[0], "version": built[1]})
    assert engine_for(manifest, arch=here[0], library=here[1]) is None
    assert re.search(said, misfit(manifest, *here))


@pytest.mark.parametrize(
    ("built", "here"),
    [
        (("SM90", "10.6.0.post1"), ("SM90", "10.6.0")),
        (("SM80+", "1.7.1"), ("SM120", "")),
        (("SM86+SM89", "1.7.1"), ("SM89", "")),
        (("SM90", "10.6.0"), ("", "")),
        ((None, None), ("SM90", "10.6.0")),
    ],
)
def test_an_engine_for_this_gpu_and_library_is_taken(
    engine_bundle: Manifest, built: tuple[str | None, str | None], here: tuple[str, str]
) -> None:
    manifest = replace(engine_bundle, toolchain={"gpu_arch": built[0], "version": built[1]})
    fitting = engine_for(manifest, arch=here[0], library=here[1])
    assert fitting is not None
    assert fitting.file == manifest.file


def built_for(manifest: Manifest, arch: str, version: str = "10.6.0") -> BuiltFile:
    return BuiltFile(manifest.file.with_name(f"{arch}.onnx"), arch, {"gpu_arch": arch, "version": version})


def test_of_several_engines_a_pod_takes_its_own(engine_bundle: Manifest) -> None:
    engines = tuple(built_for(engine_bundle, arch) for arch in ("SM86", "SM90", "SM100"))
    manifest = replace(engine_bundle, engines=engines)
    for arch in ("SM86", "SM90", "SM100"):
        fitting = engine_for(manifest, arch=arch, library="10.6.0")
        assert fitting is not None
        assert (fitting.file.name, fitting.digest) == (f"{arch}.onnx", arch)
    assert engine_for(manifest, arch="SM90", library="10.7.0") is None
    assert misfit(manifest, "SM75", "10.6.0") == (
        "each of the 3 engines of credit_risk was built for GPU SM86, this one is SM75;"
        " GPU SM90, this one is SM75; GPU SM100, this one is SM75"
    )


def test_a_model_that_took_more_at_its_gate_than_is_free_is_refused_with_both_numbers(doubling: Path) -> None:
    manifest = replace(read_manifest(doubling), gpu_memory_bytes=3 * 2**30)
    with pytest.raises(Permanent, match=r"takes 3,072 MB of GPU memory.*and 1,024 MB are free"):
        expect_room(manifest, 2**30)
    expect_room(manifest, 4 * 2**30)
    expect_room(manifest, 0)
    expect_room(replace(manifest, gpu_memory_bytes=0), 2**20)


def test_a_damaged_engine_is_refused_before_anything_reads_it(
    engine_bundle: Manifest, tmp_path: Path
) -> None:
    """TensorRT ends the process at a flipped byte."""
    whole = engine_bundle.file.read_bytes()
    file = tmp_path / "model.onnx"
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Permanent, match=r"damaged: model\.onnx is not what was built"):
        open_engine(replace(engine_bundle, file=file), environ={})


def test_what_the_provider_does_not_run_is_never_run_by_another(doubling: Path) -> None:
    """onnxruntime would turn to the next provider with a line in its log."""
    setup = GpuSetup(
        ["CPUExecutionProvider"], ["CPUExecutionProvider"], "cpu", provider="TensorrtExecutionProvider"
    )
    with pytest.raises(Permanent, match="onnxruntime cannot use the GPU"):
        open_on_gpu(read_manifest(doubling), setup, {SWITCH: "0"})


def test_an_engine_that_onnxruntime_cannot_load_is_a_reason(engine_bundle: Manifest, tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(engine_bundle.file.read_bytes()[:40])
    with pytest.raises(Permanent, match=r"cannot load .* with .*: .*INVALID"):
        open_on_gpu(replace(engine_bundle, file=damaged), ON_THE_HOST, {})


def test_an_unknown_platform_lists_the_known_ones(engine_bundle: Manifest) -> None:
    with pytest.raises(UnknownEngine, match="onnxruntime, onnxruntime_cuda, python, tensorrt, tensorrt_rtx"):
        open_engine(replace(engine_bundle, platform="caffe"), environ={})


@pytest.mark.skipif(nvml.architecture() != "", reason="there is a GPU here")
def test_without_a_gpu_the_remedy_is_named(engine_bundle: Manifest, doubling: Path) -> None:
    with pytest.raises(Permanent, match=r"(?s)no TensorRT.*onnxruntime-gpu"):
        open_engine(engine_bundle, environ={})
    with pytest.raises(Permanent, match="onnxruntime candidate"):
        open_engine(replace(engine_bundle, platform="tensorrt_rtx"), environ={})
    with pytest.raises(Permanent, match="onnxruntime-gpu"):
        open_engine(read_manifest(doubling), environ={"SLIPWAY_DEVICE": "cuda"})
