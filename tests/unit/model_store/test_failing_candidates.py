"""One precision that fails is a reason on record, whatever it raised, and the others are published."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store import build
from model_store.errors import Retryable
from model_store.inference import NotRunnable
from model_store.stages import compile as compiling
from model_store.stages import quantize as quantizing
from model_store.stages.base import BuildContext, Variant
from model_store.stages.served import JudgedModel
from model_store.storage.base import Corrupt
from model_store.storage.store import Store
from model_store.types import Toolchain
from tests.build_world import a_world, gated, hurry, with_spec
from tests.small_models import Credit

FP16: Variant = {"precision": "fp16", "layout": "onnxruntime"}
RAISED = [
    (IndexError("index 5 is out of bounds"), "IndexError: index 5 is out of bounds"),
    (ValueError("zero-dimensional arrays cannot be concatenated"), "zero-dimensional arrays"),
    (AssertionError(), "AssertionError"),
    (MemoryError(), "the memory of this machine ran out"),
    (NotRunnable("cannot answer\nat all", remedy="look"), "cannot answer (look)"),
    (FileNotFoundError(errno.ENOENT, "no such file", "q.onnx"), "no such file"),
]
EVERYBODYS = [
    Retryable("MLflow does not answer", remedy="start it"),
    Corrupt("changed", remedy="check the disk"),
    OSError(errno.ENOSPC, "no space left", "/store/tmp/x"),
    KeyboardInterrupt(),
]


@pytest.fixture
def world(store: Store, credit: Credit, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    hurry(monkeypatch)
    return with_spec(a_world(store, credit), precisions=["fp16", "fp32"])


def raising(error: BaseException, only: str) -> Callable[..., object]:
    """The real conversion, except that one precision raises."""
    real = quantizing.quantize

    def quantize(store, source, precision, *more, **options):
        if precision == only:
            raise error
        return real(store, source, precision, *more, **options)

    return quantize


@pytest.mark.parametrize(("error", "said"), RAISED)
def test_whatever_a_conversion_raises_is_its_reason_and_fp32_is_published(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr(quantizing, "quantize", raising(error, "fp16"))
    exported = build.export_stage(world)
    made = [build._gated(world, exported, variant) for variant in build.variants(world.spec)]
    assert made[0]["reasons"][0].startswith("conversion to fp16 failed: ")
    assert said in made[0]["reasons"][0]
    assert build.choose_stage(world, made)["precision"] == "fp32"


@pytest.mark.parametrize("error", EVERYBODYS)
def test_what_concerns_every_candidate_goes_through(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    exported = build.export_stage(world)
    monkeypatch.setattr(quantizing, "quantize", raising(error, "fp16"))
    with pytest.raises(type(error)):
        build.quantize_stage(world, exported, FP16)


def test_a_failure_is_not_remembered_for_it_may_have_been_the_machine(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = build.export_stage(world)
    with monkeypatch.context() as patch:
        patch.setattr(quantizing, "quantize", raising(MemoryError(), "fp16"))
        assert build.quantize_stage(world, exported, FP16)["artifact"] is None
    assert build.quantize_stage(world, exported, FP16)["artifact"] is not None


def test_whatever_a_compiler_raises_is_that_targets_reason(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name = "onnxruntime"

        def toolchain(self, spec):
            return Toolchain("broken", "1")

        def compile(self, source, spec):
            raise TypeError("unsupported operand")

    exported = build.export_stage(world)
    quantized = build.quantize_stage(world, exported, FP16)
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "compiler", lambda name, store: Broken())
        made = build.compile_stage(world, quantized, "onnxruntime")
    assert made["artifact"] is None
    assert made["reason"].startswith("compiling for onnxruntime failed: unsupported operand")


def test_a_candidate_that_cannot_answer_is_a_reason_and_the_others_are_judged(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = JudgedModel.answer

    def answer(self, rows, **options):
        if self.precision == "fp16":
            raise RuntimeError("Non-zero status code returned while running FusedMatMul node")
        return real(self, rows, **options)

    monkeypatch.setattr(JudgedModel, "answer", answer)
    half, full = gated(world)
    assert (half["served"], half["engines"], half["report"]["checks"]) == (None, [], [])
    assert half["reasons"][-1].startswith("running fp16 failed: Non-zero status code returned while running")
    assert full["report"]["checks"]
    assert build.choose_stage(world, [half, full])["precision"] == "fp32"


def test_nothing_is_written_where_a_killed_build_would_leave_it_for_good(
    world: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = with_spec(world, precisions=["fp32", "fp16", "int8"])
    exported = build.export_stage(ctx)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nobody sweeps here"))
    for variant in build.variants(ctx.spec):
        quantized = build.quantize_stage(ctx, exported, variant)
        assert quantized["reason"] == ""
        assert build.compile_stage(ctx, quantized, "onnxruntime")["reason"] == ""
    assert not list((ctx.store.root / "tmp").iterdir())
