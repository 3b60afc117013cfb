"""Nothing to build for a model that is served as it is."""

from __future__ import annotations

from model_store.compile.base import CompileSpec, NotCompiled
from model_store.types import Artifact, Toolchain


class PythonCompiler:
    """Hands on an archive of a logged model, which names the Python that runs it."""

    name = "python"

    def toolchain(self, spec: CompileSpec) -> Toolchain:
        return Toolchain(self.name, "as logged")

    def compile(self, source: Artifact, spec: CompileSpec) -> Artifact | NotCompiled:
        if source.format == "mlflow":
            return source
        return NotCompiled(self.name, f"{source.format} is not run by Python", "set source.flavor: pyfunc")
