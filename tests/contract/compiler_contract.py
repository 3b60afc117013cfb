"""What every `Compiler` does. Subclass `CompilerContract` and give it a `compiler` fixture."""

from __future__ import annotations

import onnx
import pytest

from model_store.compile import COMPILERS, Compiler, CompileSpec, NotCompiled
from model_store.quantize import NotQuantized, quantize
from model_store.storage.store import Store
from model_store.types import Artifact
from tests.small_models import Credit, Digits, keep

SPEC = CompileSpec(max_batch_size=8, time_limit_seconds=120)


def prepared(store: Store, content: bytes, rows) -> Artifact:
    """What a compiler is given in a build: the model with its operators lowered."""
    made = quantize(store, keep(store, content), "fp32", "onnxruntime", rows)
    assert not isinstance(made, NotQuantized)
    return made


class CompilerContract:
    is_available = True

    def test_it_is_registered_under_its_own_name(self, compiler: Compiler) -> None:
        assert compiler.name in COMPILERS

    def test_an_artifact_says_what_it_came_from_and_what_built_it(
        self, compiler: Compiler, store: Store, credit: Credit
    ) -> None:
        source = prepared(store, credit.onnx, credit.calibration)
        made = compiler.compile(source, SPEC)
        if not self.is_available:
            assert isinstance(made, NotCompiled)
            assert made.compiler == compiler.name
            assert made.reason
            assert made.remedy
            return
        assert isinstance(made, Artifact), made
        assert (made.parent_digest, made.precision) == (source.digest, source.precision)
        assert (made.toolchain.compiler, made.toolchain.version) == (
            compiler.name,
            compiler.toolchain(SPEC).version,
        )
        assert made.size_bytes == made.path.stat().st_size > 0

    def test_a_cnn_compiles_too(self, compiler: Compiler, store: Store, digits: Digits) -> None:
        made = compiler.compile(prepared(store, digits.onnx, digits.calibration), SPEC)
        assert isinstance(made, Artifact if self.is_available else NotCompiled)

    @pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07"])
    def test_what_is_no_model_is_a_reason_and_not_a_crash(
        self, compiler: Compiler, store: Store, content: bytes
    ) -> None:
        made = compiler.compile(keep(store, content), SPEC)
        assert isinstance(made, NotCompiled)
        assert made.reason

    def test_a_truncated_model_is_a_reason_and_not_a_crash(
        self, compiler: Compiler, store: Store, digits: Digits
    ) -> None:
        made = compiler.compile(keep(store, digits.onnx[: len(digits.onnx) // 2]), SPEC)
        assert isinstance(made, NotCompiled)

    def test_an_operator_nobody_knows_is_a_reason_that_names_it(
        self, compiler: Compiler, store: Store, digits: Digits
    ) -> None:
        model = onnx.load_model_from_string(digits.onnx)
        model.graph.node[1].op_type = "Reluctant"
        made = compiler.compile(keep(store, model.SerializeToString()), SPEC)
        assert isinstance(made, NotCompiled)
        if self.is_available:
            assert "Reluctant" in made.reason
