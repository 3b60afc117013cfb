"""scikit-learn versions: converted in a child process that gets nothing of ours, and only if trusted."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from model_store.errors import Permanent, Retryable
from model_store.export import ExportedModel, export
from model_store.export import sklearn as flavor
from model_store.export.agreement import agree
from model_store.export.mlmodel import read_mlmodel
from model_store.foreign_code import Limits
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef, TensorSpec

ADAM = "sklearn.neural_network._stochastic_optimizers.AdamOptimizer"
REF = ModelRef("credit", 1)

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 rows of two numbers and a text, with a label and something to regress on."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"age": rng.normal(40, 9, 200), "income": rng.normal(100, 30, 200)})
    table["home"] = rng.choice(["own", "rent"], 200)
    table["bad"] = (table.age + rng.normal(0, 3, 200) < 40).astype(int)
    table["loss"] = table.income * 10 + table.age
    path = tmp_path_factory.mktemp("rows") / "evaluation.parquet"
    table.to_parquet(path)
    return path


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a model as MLflow does."""

    def save(model: Any, example: Any, name: str = "logged", **options: Any) -> Path:
        import mlflow.sklearn
        from mlflow.models import infer_signature

        signature = infer_signature(example, model.predict(example)) if example is not None else None
        folder = tmp_path / name
        options = {"pip_requirements": ["scikit-learn"], "skops_trusted_types": [ADAM]} | options
        mlflow.sklearn.save_model(model, str(folder), signature=signature, **options)
        return folder

    return save


def spec(**changes: Any) -> ReleaseSpec:
    source = {"flavor": "sklearn", "trusted": True, "skops_trusted_types": (ADAM,)}
    data = {"evaluation": "e.csv", "calibration": "c.csv", "label": "bad", "ignore": ("home", "loss")}
    return ReleaseSpec.model_validate(
        {
            "model": "credit",
            "source": source | changes.pop("source", {}),
            "data": data | changes.pop("data", {}),
            "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
            **changes,
        }
    )


def run(folder: Path, rows: Path, said: ReleaseSpec | None = None, *, out: str = "out") -> ExportedModel:
    return export(REF, said or spec(), folder, folder.parent / out, evaluation=rows)


def refusal(folder: Path, rows: Path, said: ReleaseSpec | None = None) -> Permanent:
    with pytest.raises(Permanent) as refused:
        run(folder, rows, said)
    return refused.value


def network(rows: Path) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = pd.read_parquet(rows)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((8,), solver="adam", tol=1e9, random_state=0))
    return pipeline.fit(table[["age", "income"]].to_numpy(np.float32), table.bad)


def test_a_skops_model_says_the_same_as_onnx_and_gives_the_same_bytes_twice(save: Save, rows: Path) -> None:
    model = network(rows)
    folder = save(model, np.zeros((1, 2), np.float32))
    first, second = run(folder, rows), run(folder, rows, out="again")

    assert first.inputs == (TensorSpec("input", "FP32", (-1, 2)),)
    assert [output.name for output in first.outputs] == ["label", "probabilities"]
    assert first.agreement.passed
    assert first.agreement.observed < 1e-5
    table = pd.read_parquet(rows)[["age", "income"]].to_numpy(np.float32)
    original = first.original_answers()
    np.testing.assert_allclose(original["probabilities"], model.predict_proba(table), atol=1e-6)
    np.testing.assert_array_equal(original["label"], model.predict(table))
    onnx_answers = answer(open_session(first.path), {"input": table})
    np.testing.assert_allclose(onnx_answers["probabilities"], original["probabilities"], atol=1e-5)
    assert first.toolchain.compiler == "skl2onnx"
    assert (first.digest, first.answers.read_bytes()) == (second.digest, second.answers.read_bytes())


def test_types_that_the_spec_does_not_name_are_refused_and_listed(save: Save, rows: Path) -> None:
    folder = save(network(rows), np.zeros((1, 2), np.float32))
    refused = refusal(folder, rows, spec(source={"skops_trusted_types": ()}))

    assert f"types that the spec does not trust: {ADAM}" in refused.problem
    assert "source.skops_trusted_types" in refused.remedy


class Harmful:
    """Its pickle writes its environment to a file as soon as it is loaded."""

    def __init__(self, witness: Path, code: str = "") -> None:
        self.witness, self.code = witness, code

    def __reduce__(self) -> Any:
        write = f"import os, json; open({str(self.witness)!r}, 'w').write(json.dumps(dict(os.environ)));"
        return exec, (write + self.code,)


@pytest.fixture
def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, Path]]:
    """A model folder whose pickle is harmful, and the file that shows that it was loaded."""
    # In the sandbox (tests/attacks) it could not write there, and nothing would be seen of its having run.
    monkeypatch.setenv("SLIPWAY_SANDBOX", "off")

    def pickled(code: str = "", **sklearn: Any) -> tuple[Path, Path]:
        witness, folder = tmp_path / "loaded", tmp_path / "logged"
        folder.mkdir()
        (folder / "model.pkl").write_bytes(pickle.dumps(Harmful(witness, code)))
        settings = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"} | sklearn
        flavors = {"sklearn": settings, "python_function": {"loader_module": "mlflow.sklearn"}}
        inputs = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]'
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, "signature": {"inputs": inputs}}))
        return folder, witness

    return pickled


@pytest.mark.parametrize("allow", [(), ("pickle", "skops", "pyfunc")])
def test_a_format_that_is_not_allowed_by_name_is_refused_without_loading_it(
    pickled: Callable[..., tuple[Path, Path]],
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow: tuple[str, ...],
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_: pytest.fail("a child was started"))
    folder, witness = pickled()
    refused = refusal(folder, rows, spec(source={"trusted": False, "allow": allow}))

    assert "saved as cloudpickle" in refused.problem
    assert "nothing was loaded" in refused.problem
    # What is allowed already stays.
    assert f"source.allow: [{', '.join((*allow, 'cloudpickle'))}]" in refused.remedy
    assert "mlflow.onnx.log_model" in refused.remedy
    assert not witness.exists()


def test_a_python_function_alone_is_no_flavour_to_convert(
    pickled: Callable[..., tuple[Path, Path]], rows: Path
) -> None:
    folder, witness = pickled()
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.sklearn}}")

    assert "its flavours are python_function" in refusal(folder, rows).problem
    assert not witness.exists()


def test_the_models_code_sees_nothing_of_our_environment(
    pickled: Callable[..., tuple[Path, Path]], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    folder, witness = pickled()
    refused = refusal(folder, rows)

    seen = witness.read_text()
    assert "hunter2" not in seen
    assert str(Path.home()) not in yaml.safe_load(seen)["HOME"]
    # What exec returns is no model.
    assert "what was loaded is NoneType, which has no predict" in refused.problem


def test_a_model_that_never_finishes_is_ended_with_all_its_processes(
    pickled: Callable[..., tuple[Path, Path]], rows: Path, tmp_path: Path
) -> None:
    started = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    folder, _ = pickled(started)
    logged = read_mlmodel(folder)

    with pytest.raises(Permanent, match="took longer than 5 s"):
        flavor.convert(logged, spec(), rows, tmp_path / "work", limits=Limits(seconds=5))
    grandchild = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while is_alive(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_model_that_takes_too_much_memory_is_told_how_much(
    pickled: Callable[..., tuple[Path, Path]], rows: Path
) -> None:
    folder, _ = pickled("bytearray(8 << 30)")

    assert "needs more than 4096 MB of memory" in refusal(folder, rows).problem


def test_a_child_that_is_killed_from_outside_may_be_tried_again(
    pickled: Callable[..., tuple[Path, Path]], rows: Path
) -> None:
    folder, _ = pickled("os.kill(os.getpid(), 9)")

    with pytest.raises(Retryable, match="killed from outside"):
        run(folder, rows)


def test_a_child_that_crashes_shows_its_last_words(
    pickled: Callable[..., tuple[Path, Path]], rows: Path
) -> None:
    folder, _ = pickled("print('x' * 100_000); print('the last words', flush=True); os._exit(3)")
    refused = refusal(folder, rows)

    assert "died with status 3" in refused.problem
    assert "the last words" in refused.problem
    assert len(refused.problem) < 3000


def test_garbage_where_the_model_should_be_is_refused(
    pickled: Callable[..., tuple[Path, Path]], rows: Path
) -> None:
    folder, _ = pickled()
    for saved_as in ("cloudpickle", "skops"):
        (folder / "model.pkl").write_bytes(b"garbage")
        mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
        mlmodel["flavors"]["sklearn"]["serialization_format"] = saved_as
        (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        assert "the model cannot be loaded" in refusal(folder, rows).problem


def test_a_cloudpickle_that_is_allowed_by_name_is_converted(save: Save, rows: Path) -> None:
    folder = save(network(rows), np.zeros((1, 2), np.float32), serialization_format="cloudpickle")

    source = {"trusted": False, "allow": ("cloudpickle",)}
    assert run(folder, rows, spec(source=source)).agreement.passed


def test_columns_of_text_become_inputs_of_their_own(save: Save, rows: Path) -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pd.read_parquet(rows)
    columns = make_column_transformer((StandardScaler(), ["age", "income"]), (OneHotEncoder(), ["home"]))
    model = make_pipeline(columns, LogisticRegression()).fit(table[["age", "income", "home"]], table.bad)
    folder = save(model, table[["age", "income", "home"]].head(2), serialization_format="cloudpickle")

    exported = run(folder, rows, spec(data={"ignore": ()}))

    assert [str(spec) for spec in exported.inputs] == [
        "age FP32[-1, 1]",
        "income FP32[-1, 1]",
        "home BYTES[-1, 1]",
    ]
    assert exported.columns["home"] == ("home",)
    assert exported.agreement.passed


def test_texts_are_normalized_in_a_locale_that_every_image_has(save: Save, tmp_path: Path) -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = np.random.default_rng(3).choice(["ANGER", "anger", "joy", "doctors"], 80)
    table = pd.DataFrame({"text": words, "bad": [word.lower() == "anger" for word in words]})
    model = make_pipeline(make_column_transformer((TfidfVectorizer(), "text")), LogisticRegression())
    folder = save(model.fit(table[["text"]], table.bad), table[["text"]])
    table.to_parquet(tmp_path / "texts.parquet")
    exported = run(folder, tmp_path / "texts.parquet")
    assert exported.agreement.passed


def test_columns_by_name_are_split_also_in_an_old_opset(save: Save, rows: Path) -> None:
    """Of an imputer and a scaler skl2onnx writes opset 11, whose Split has its sizes as an attribute."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, names = pd.read_parquet(rows), ["age", "income"]
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    model = make_pipeline(make_column_transformer((numbers, names)), LogisticRegression())
    folder = save(model.fit(table[names], table.bad), table[names], serialization_format="cloudpickle")
    assert run(folder, rows, spec(source={"flavor": "sklearn", "trusted": True})).agreement.passed


def test_a_regression_is_compared_in_the_shape_that_is_served(save: Save, rows: Path) -> None:
    from sklearn.linear_model import LinearRegression

    table = pd.read_parquet(rows)
    model = LinearRegression().fit(table[["age", "income"]], table.loss)
    folder = save(model, table[["age", "income"]].head(2), serialization_format="cloudpickle")

    exported = run(folder, rows)

    assert exported.original_answers()["variable"].shape == (200, 1)
    assert exported.columns == {"input": ("age", "income")}
    assert exported.agreement.passed


def test_a_model_without_signature_takes_what_the_evaluation_rows_hold(save: Save, rows: Path) -> None:
    """As autologging and MLflow's own examples log them."""
    exported = run(save(network(rows), None), rows)

    assert exported.columns == {"input": ("age", "income")}
    assert exported.agreement.passed
    (note,) = (note for note in exported.notes if "signature" in note)
    assert "takes age, income, in this order" in note
    assert [column["name"] for column in exported.invocations["columns"]] == ["age", "income"]


def test_without_a_signature_the_columns_of_data_inputs_are_fed_in_their_order(
    save: Save, rows: Path
) -> None:
    turned = spec(data={"inputs": {"input": ["income", "age"]}})
    assert run(save(network(rows), None), rows, turned).columns == {"input": ("income", "age")}


def test_an_estimator_without_a_converter_is_refused_by_name(save: Save, rows: Path) -> None:
    from sklearn.semi_supervised import LabelPropagation

    table = pd.read_parquet(rows)
    features = table[["age", "income"]].to_numpy(np.float32)
    model = LabelPropagation().fit(features, table.bad)
    folder = save(model, features[:1], serialization_format="cloudpickle")

    assert "skl2onnx cannot convert LabelPropagation" in refusal(folder, rows).problem


def test_rows_that_the_signature_does_not_fit_are_refused_before_the_model_is_loaded(
    pickled: Callable[..., tuple[Path, Path]], rows: Path
) -> None:
    folder, witness = pickled()
    refused = refusal(folder, rows, spec(data={"ignore": ("loss", "home", "age")}))

    assert "1 columns (income) with 1 values a row do not fill input input FP32[-1, 2]" in refused.problem
    assert not witness.exists()


@pytest.mark.parametrize(
    ("signature", "said", "complaint"),
    [
        ('[{"type": "datetime", "name": "at"}]', {}, "is datetime, which no ONNX tensor holds"),
        (
            '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]',
            {},
            "not a batch of rows",
        ),
        (
            '[{"type": "double", "name": "age"}]',
            {"inputs": {"x": ("agee",)}},
            "names agee, which the model's",
        ),
        (
            '[{"type": "double", "name": "age"}, {"type": "string", "name": "home"}]',
            {"inputs": {"x": ("age", "home")}},
            "mixes text and numbers",
        ),
    ],
)
def test_signatures_that_make_no_tensors_are_refused(
    pickled: Callable[..., tuple[Path, Path]],
    rows: Path,
    signature: str,
    said: dict[str, Any],
    complaint: str,
) -> None:
    folder, witness = pickled()
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text()) | {"signature": {"inputs": signature}}
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))

    assert complaint in refusal(folder, rows, spec(data=said)).problem
    assert not witness.exists()


def test_the_spec_says_which_tensors_the_columns_become(save: Save, rows: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    table = pd.read_parquet(rows)
    model = LogisticRegression().fit(table[["income", "age"]], table.bad)
    folder = save(model, table[["income", "age"]].head(2), serialization_format="cloudpickle")

    exported = run(folder, rows, spec(data={"inputs": {"figures": ("income", "age")}}))

    assert exported.inputs == (TensorSpec("figures", "FP32", (-1, 2)),)


# Agreement, without a child.

SCORES = np.array([[0.1, 0.9], [0.5, 0.5]])


def test_probabilities_may_differ_by_the_tolerance_and_quantiles_are_told() -> None:
    labels = np.array([1, 0])
    check = agree(
        {"label": labels, "p": SCORES},
        {"label": labels, "p": SCORES.astype(np.float32) + 1e-5},
        tolerance=1e-4,
        probabilities=frozenset({"p"}),
    )

    assert check.passed
    assert 0.9e-5 < check.observed < 1.1e-5
    assert check.detail.startswith("0 of 2 decisions differ; numbers differ by 1e-05 (median)")
    assert check.detail.endswith("in output p")


def test_answers_beyond_the_tolerance_are_refused_with_rows_and_both_values() -> None:
    with pytest.raises(Permanent) as refused:
        agree({"p": SCORES}, {"p": SCORES + 0.01}, tolerance=1e-4)

    assert "answers 2 of 2 rows otherwise" in refused.value.problem
    assert "row 0: p is [0.1, 0.9] in the original and [0.11, 0.91] in ONNX" in refused.value.problem
    assert "gates.export_tolerance" in refused.value.remedy


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_numbers_of_any_size_may_differ_in_proportion(size: float) -> None:
    values = np.array([1.0, -2.0, 0.0, 3.0]) * size
    assert agree({"y": values}, {"y": values + 0.5e-4 * size}, tolerance=1e-4).passed
    with pytest.raises(Permanent):
        agree({"y": values}, {"y": values + 5e-4 * size}, tolerance=1e-4)


def test_one_decision_of_ten_thousand_may_differ_and_eleven_may_not() -> None:
    labels = np.arange(10_000) % 2
    for changed, passes in ((1, True), (10, True), (11, False)):
        other = labels.copy()
        other[:changed] = 1 - other[:changed]
        if passes:
            check = agree({"label": labels}, {"label": other}, tolerance=1e-4)
            assert check.detail == f"{changed} of 10,000 decisions differ"
            continue
        with pytest.raises(Permanent, match="answers 11 of 10,000 rows otherwise") as refused:
            agree({"label": labels}, {"label": other}, tolerance=1e-4)
        assert "row 0: label is 0 in the original and 1 in ONNX" in refused.value.problem


@pytest.mark.parametrize(
    ("original", "onnx", "agrees"),
    [
        ([True, False], [1, 0], True),
        ([1.0, 0.0], [1, 0], True),
        ([0.5, 0.0], [0, 0], False),
        (["1", "0"], [1, 0], False),
        (["a", "b"], ["a", "b"], True),
    ],
)
def test_a_decision_is_the_same_whatever_type_it_has_but_text_is_no_number(
    original: list[Any], onnx: list[Any], agrees: bool
) -> None:
    if agrees:
        assert agree({"label": np.array(original)}, {"label": np.array(onnx)}, tolerance=1e-4).passed
        return
    with pytest.raises(Permanent, match="decisions differ"):
        agree({"label": np.array(original)}, {"label": np.array(onnx)}, tolerance=1e-4)


def test_answers_of_another_shape_are_refused() -> None:
    with pytest.raises(Permanent, match=r"shape \(2, 1\) in ONNX and \(2, 2\)"):
        agree({"p": SCORES}, {"p": SCORES[:, :1]}, tolerance=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_on_either_side(value: float) -> None:
    broken = SCORES.copy()
    broken[1, 0] = value

    with pytest.raises(
        Permanent, match="the ONNX model answers NaN or infinity in output `p` to 1 of 2 rows"
    ):
        agree({"p": SCORES}, {"p": broken}, tolerance=1)
    with pytest.raises(Permanent, match="first to row 1"):
        agree({"p": broken}, {"p": broken}, tolerance=1)
