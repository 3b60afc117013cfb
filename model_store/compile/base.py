"""What every compiler takes and gives; and the one that has nothing to build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from model_store.errors import Permanent
from model_store.types import Artifact, Toolchain


class UnknownCompiler(Permanent):
    """A compiler nobody registered."""

    def __init__(self, name: str, *, known: list[str]) -> None:
        super().__init__(f"unknown compiler {name!r}", remedy=f"use one of: {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class CompileSpec:
    """`max_batch_size` bounds the batch an engine is built for (from 1). `gpu_archs` ("SM86", ...): what an
    ahead-of-time engine must run on; empty leaves it to the compiler. `time_limit_seconds` for one build.
    """

    max_batch_size: int
    gpu_archs: tuple[str, ...] = ()
    time_limit_seconds: float = 300


@dataclass(frozen=True, slots=True)
class NotCompiled:
    """Why there is no such artifact, and what would change that. A recorded outcome, not an error."""

    compiler: str
    reason: str
    remedy: str


class Compiler(Protocol):
    """Implementations pass `tests/contract/compiler_contract.py`."""

    @property
    def name(self) -> str:
        """As in the spec's `targets`."""
        ...

    def toolchain(self, spec: CompileSpec) -> Toolchain:
        """What would build: another toolchain is another artifact. Version "absent" if not installed."""
        ...

    def compile(self, source: Artifact, spec: CompileSpec) -> Artifact | NotCompiled:
        """Build `source` (ONNX) for this runtime. What it cannot take is NotCompiled, never an exception;
        a builder that crashes or hangs takes nobody with it.
        """
        ...


class PythonCompiler:
    """Hands on an archive of a logged model, which names the Python that runs it."""

    name = "python"

    def toolchain(self, spec: CompileSpec) -> Toolchain:
        return Toolchain(self.name, "as logged")

    def compile(self, source: Artifact, spec: CompileSpec) -> Artifact | NotCompiled:
        if source.format == "mlflow":
            return source
        return NotCompiled(self.name, f"{source.format} is not run by Python", "set source.flavor: pyfunc")
