"""What models that are served as they are take and answer becomes named tensors, whatever form it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model_store.engines.manifest import read_manifest
from tests.pyfunc_models import bundle_of, saved_pyfunc

pytestmark = [pytest.mark.at_length, pytest.mark.usefixtures("lasting_environments")]

Tensors = list[tuple[str, str, tuple[int, ...]]]


def tensors(folder: Path, saved: Path, rows: pd.DataFrame) -> tuple[Tensors, Tensors]:
    signature = read_manifest(bundle_of(folder, saved, rows)).signature
    inputs, outputs = (
        [(spec.name, spec.datatype.name, spec.shape) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    )
    return inputs, outputs


def signature_of(example: Any, **more: Any) -> Any:
    from mlflow.models import infer_signature

    return infer_signature(example, **more)


def test_a_list_of_text_by_type_hints_is_one_column(tmp_path: Path) -> None:
    saved = saved_pyfunc(tmp_path / "model", "sentences", ["a"], ["b"], signature=None)
    inputs, outputs = tensors(tmp_path, saved, pd.DataFrame({"text": ["hello", "a long sentence"] * 16}))
    assert inputs == [("input", "BYTES", (-1, 1))]
    assert outputs == [("output", "BYTES", (-1,))]


def test_a_dictionary_for_each_row_becomes_an_output_for_each_key(tmp_path: Path) -> None:
    rows = pd.DataFrame({"x": np.linspace(-1, 1, 32)})
    saved = saved_pyfunc(tmp_path / "model", "records", None, None, signature=signature_of(rows))
    inputs, outputs = tensors(tmp_path, saved, rows)
    assert inputs == [("x", "FP64", (-1, 1))]
    assert outputs == [("label", "BYTES", (-1,)), ("parts", "FP64", (-1, 2))]


def test_arrays_keep_their_shape_and_params_their_defaults(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((32, 4)).astype(np.float32)
    signature = signature_of(np.zeros((2, 2, 2), np.float32), params={"bright": 0.9})
    saved = saved_pyfunc(tmp_path / "model", "pictures", None, None, signature=signature)
    inputs, outputs = tensors(tmp_path, saved, pd.DataFrame(pixels, columns=list("abcd")))
    assert inputs == [("input", "FP32", (-1, 2, 2))]
    assert outputs == [("mean", "FP32", (-1,)), ("is_bright", "BOOL", (-1,))]
