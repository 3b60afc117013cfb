"""Libraries that report how they are used, asked in processes with a home of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_store import NO_TELEMETRY, foreign_code
from model_store.engines.python import process
from model_store.installation import ROOT
from tests.bundles import mlp

OPEN = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])"


@pytest.mark.parametrize(("code", "is_quiet"), [(f"import model_store; {OPEN}", True), (OPEN, False)])
def test_onnxruntime_keeps_no_identifier_of_the_machine(tmp_path: Path, code: str, *, is_quiet: bool) -> None:
    """The second shows that this would be seen: onnxruntime alone does keep one."""
    home = tmp_path / "home"
    home.mkdir()
    model = tmp_path / "model.onnx"
    model.write_bytes(mlp().SerializeToString())
    # What runs tests in CI is quiet by itself.
    environ = {"HOME": str(home), "PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(model)], env=environ, check=True)
    assert (list(home.rglob("deviceid")) == []) is is_quiet


def test_a_models_own_process_is_told_too(tmp_path: Path) -> None:
    for environ in (process._environment(str(tmp_path), 1), foreign_code._environment(tmp_path)):
        assert environ.items() >= NO_TELEMETRY.items()
