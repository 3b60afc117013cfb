"""Compilers: one contract for all, and what each does besides."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import helper

from model_store.bundle.triton import BACKENDS
from model_store.compile import COMPILERS, Compiler, CompileSpec, NotCompiled, UnknownCompiler, compiler
from model_store.compile.engines import TensorRTCompiler, TensorRTRTXCompiler
from model_store.compile.onnxruntime import OnnxRuntimeCompiler
from model_store.engines.building import run_child
from model_store.engines.registry import ENGINES
from model_store.inference import answer, open_session
from model_store.quantize import NotQuantized, quantize
from model_store.storage.store import Store
from model_store.types import Artifact, TargetName
from tests.bundles import mlp
from tests.contract.compiler_contract import SPEC, CompilerContract, prepared
from tests.small_models import Credit, Digits, keep


class TestOnnxRuntime(CompilerContract):
    @pytest.fixture
    def compiler(self, store: Store) -> Compiler:
        return compiler("onnxruntime", store)

    def test_the_optimized_model_answers_the_same(
        self, compiler: Compiler, store: Store, credit: Credit
    ) -> None:
        made = compiler.compile(prepared(store, credit.onnx, credit.calibration), SPEC)
        assert isinstance(made, Artifact)
        before, after = (answer(open_session(m), credit.evaluation) for m in (credit.onnx, made.path))
        assert np.array_equal(before["label"], after["label"])
        assert np.abs(before["probabilities"] - after["probabilities"]).max() < 1e-6
        assert "FusedGemm" in {node.op_type for node in onnx.load(made.path).graph.node}

    def test_the_same_source_gives_the_same_bytes(
        self, compiler: Compiler, store: Store, digits: Digits, tmp_path: Path
    ) -> None:
        made = compiler.compile(prepared(store, digits.onnx, digits.calibration), SPEC)
        other = Store(tmp_path)
        again = COMPILERS["onnxruntime"](other).compile(
            prepared(other, digits.onnx, digits.calibration), SPEC
        )
        assert isinstance(made, Artifact)
        assert isinstance(again, Artifact)
        assert made.digest == again.digest

    def test_fp16_weights_stay_fp16(self, compiler: Compiler, store: Store, credit: Credit) -> None:
        half = quantize(store, keep(store, credit.onnx), "fp16", "onnxruntime", credit.calibration)
        assert isinstance(half, Artifact)
        made = compiler.compile(half, SPEC)
        assert isinstance(made, Artifact)
        assert made.size_bytes < 0.6 * len(credit.onnx)


class TestTensorRTRTX(CompilerContract):
    """Real engines, built on this machine's CPU; none is run, which would need a GPU."""

    @pytest.fixture
    def compiler(self, store: Store) -> Compiler:
        return compiler("tensorrt_rtx", store)

    def test_the_int8_layout_made_for_it_becomes_an_engine(
        self, compiler: Compiler, store: Store, credit: Credit
    ) -> None:
        int8 = quantize(store, keep(store, credit.onnx), "int8", "tensorrt", credit.calibration)
        assert not isinstance(int8, NotQuantized)
        made = compiler.compile(int8, SPEC)
        assert isinstance(made, Artifact), made
        assert (made.format, made.path.name) == ("tensorrt_rtx", "model.onnx")
        (node,) = onnx.load(made.path).graph.node
        told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        assert (node.op_type, told["source"]) == ("EPContext", b"NvTensorRTRTXExecutionProvider")
        assert len(told["ep_cache_context"]) > 10_000
        before = onnx.load(int8.path).graph
        graph = onnx.load(made.path).graph
        assert (list(graph.input), list(graph.output)) == (list(before.input), list(before.output))
        how = store.provenance(made.digest)
        assert how["batch_profile"] == [1, 8]
        assert 0 < how["build_seconds"] < 120

    def test_onnxruntimes_int8_layout_is_refused_in_words(
        self, compiler: Compiler, store: Store, credit: Credit
    ) -> None:
        int8 = quantize(store, keep(store, credit.onnx), "int8", "onnxruntime", credit.calibration)
        assert not isinstance(int8, NotQuantized)
        made = compiler.compile(int8, SPEC)
        assert isinstance(made, NotCompiled)
        assert "the parser refuses DequantizeLinear" in made.reason

    def test_operators_of_scikit_learn_are_refused_by_name_until_lowered(
        self, compiler: Compiler, store: Store, credit: Credit
    ) -> None:
        made = compiler.compile(keep(store, credit.onnx), SPEC)
        assert isinstance(made, NotCompiled)
        assert "Scaler" in made.reason

    def test_an_engine_can_be_asked_for_named_gpus(
        self, compiler: Compiler, store: Store, digits: Digits
    ) -> None:
        made = compiler.compile(
            prepared(store, digits.onnx, digits.calibration), CompileSpec(8, gpu_archs=("SM86", "SM89"))
        )
        assert isinstance(made, Artifact)
        assert made.toolchain.gpu_arch == "SM86+SM89"

    def test_an_unknown_gpu_lists_those_there_are(
        self, compiler: Compiler, store: Store, digits: Digits
    ) -> None:
        source = prepared(store, digits.onnx, digits.calibration)
        made = compiler.compile(source, CompileSpec(8, gpu_archs=("SM90",)))
        assert isinstance(made, NotCompiled)
        assert "unknown GPU architecture SM90; known: SM120, SM121, SM75" in made.reason

    def test_a_build_beyond_its_time_limit_is_ended(self, store: Store, digits: Digits) -> None:
        source = prepared(store, digits.onnx, digits.calibration)
        begin = time.monotonic()
        made = TensorRTRTXCompiler(store).compile(source, CompileSpec(8, time_limit_seconds=0.05))
        assert isinstance(made, NotCompiled)
        assert "longer than 0.05 s" in made.reason
        assert time.monotonic() - begin < 10


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_bindings") is not None, reason="the full TensorRT is installed"
)
class TestTensorRTWithoutThePackage(CompilerContract):
    is_available = False

    @pytest.fixture
    def compiler(self, store: Store) -> Compiler:
        return compiler("tensorrt", store)

    def test_the_remedy_names_the_file_that_installs_it(
        self, compiler: Compiler, store: Store, digits: Digits
    ) -> None:
        made = compiler.compile(keep(store, digits.onnx), SPEC)
        assert isinstance(made, NotCompiled)
        assert "tensorrt_bindings is not installed" in made.reason
        assert "requirements-tensorrt.txt" in made.remedy
        assert (Path(__file__).parents[3] / "requirements-tensorrt.txt").is_file()
        assert compiler.toolchain(SPEC).version == "absent"


class Doors(TensorRTCompiler):
    """The full TensorRT's door with the other library behind it: the code path up to the GPU is the same."""

    bindings = "tensorrt_rtx_bindings"
    distributions = ("tensorrt-rtx-cu13-bindings",)


@pytest.mark.parametrize(("device", "fused"), [(None, True), ("cuda", False)])
def test_what_only_the_cpu_has_is_fused_for_the_cpu_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, device: str | None, fused: bool
) -> None:
    """On a GPU FusedGemm runs on the CPU, and no CUDA graph can be recorded."""
    if device:
        monkeypatch.setenv("SLIPWAY_DEVICE", device)
    source = keep(store, mlp((4, 8, 2)).SerializeToString())
    compiled = OnnxRuntimeCompiler(store).compile(source, CompileSpec(max_batch_size=8))
    assert isinstance(compiled, Artifact)
    operators = {node.op_type for node in onnx.load(compiled.path).graph.node}
    assert ("FusedGemm" in operators, compiled.toolchain.gpu_arch) == (fused, device)


def test_the_full_tensorrts_door_builds_with_bindings_behind_it(store: Store, digits: Digits) -> None:
    made = Doors(store).compile(prepared(store, digits.onnx, digits.calibration), SPEC)
    assert isinstance(made, Artifact)
    assert made.toolchain.compiler == "tensorrt"


def test_bindings_that_do_not_load_are_a_reason(
    store: Store, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_bindings.py").write_text("raise ImportError('libnvinfer.so.11: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    class Broken(TensorRTCompiler):
        bindings = "broken_bindings"

    made = Broken(store).compile(keep(store, digits.onnx), SPEC)
    assert isinstance(made, NotCompiled)
    assert made.reason == "broken_bindings does not load: libnvinfer.so.11: cannot open"


# a builder that misbehaves takes nobody along

CRASH = "import os, signal, sys\nprint('about to crash', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
HANG = (
    "import subprocess, sys, time\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\ntime.sleep(60)\n"
)


@pytest.fixture
def builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"crash": CRASH, "hang": HANG, "fail": "raise SystemExit('out of memory')"}.items():
        (tmp_path / f"builder_that_{name}s.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        ("builder_that_crashs", "the builder was killed by SIGSEGV: about to crash"),
        ("builder_that_fails", "the builder failed with status 1: out of memory"),
        ("builder_that_hangs", "the build took longer than 2 s and was ended"),
    ],
)
def test_a_builder_that_crashes_or_hangs_is_a_reason(
    store: Store, digits: Digits, builders: Path, builder: str, reason: str
) -> None:
    source = keep(store, digits.onnx)
    made = TensorRTRTXCompiler(store, builder=builder).compile(source, CompileSpec(8, time_limit_seconds=2))
    assert isinstance(made, NotCompiled)
    assert made.reason == reason


def test_a_builder_that_hangs_is_ended_with_its_children(builders: Path) -> None:
    assert run_child(["builder_that_hangs"], builders, 2.0) is not None
    grandchild = int((builders / "log.txt").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{grandchild}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{grandchild}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        _signal_unless_zombie(grandchild)


def _signal_unless_zombie(pid: int) -> None:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    if state == "Z":
        raise ProcessLookupError(pid)
    os.kill(pid, 0)


def test_an_unknown_compiler_lists_those_there_are(store: Store) -> None:
    with pytest.raises(
        UnknownCompiler, match=r"'openvino'.*\n  remedy: use one of: onnxruntime, python, tensorrt, tens"
    ):
        compiler("openvino", store)


def test_asking_what_exists_imports_no_compiler() -> None:
    import subprocess

    code = "import sys, model_store.compile; print([m for m in ('onnxruntime', 'onnx') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_what_a_spec_may_name_has_a_compiler_an_engine_and_a_backend_of_triton() -> None:
    named = set(get_args(TargetName))
    assert set(COMPILERS) == named
    assert named <= set(ENGINES)
    assert named <= set(BACKENDS)
