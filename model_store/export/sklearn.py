"""The `sklearn` flavour: loading it runs its author's code, so a child process does, and only if allowed.

By the libraries here, or where those are too different from what it was logged with, in its own environment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from model_store.dataset import Dataset, UnusableData, read_dataset
from model_store.errors import Permanent
from model_store.export.agreement import Disagrees, agree
from model_store.export.allowed import code_format, refuse_unless_allowed
from model_store.export.base import NotExportable, Original
from model_store.export.in_child import AS_IT_IS, NotConvertible, run_converter, said, write_rows
from model_store.export.invocations import NOT_SERVED, answered_values
from model_store.export.mlmodel import LoggedModel
from model_store.export.onnx_file import parse, read_onnx
from model_store.export.outputs import rows_first, with_computed_types, without_outputs
from model_store.export.pairing import Paired, pair
from model_store.export.requirements import own_interpreter
from model_store.export.says import Says
from model_store.export.signature import InputsToTry, Plan, plan
from model_store.export.versions import Recorded, differing, other_versions, recorded_versions
from model_store.foreign_code import Limits
from model_store.inference import NotRunnable, answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.sandbox import importable
from model_store.types import Toolchain

CHILD = Path(__file__).with_name("sklearn_child.py")
LIMITS = Limits(seconds=300)
_SCORES = ("predict_proba", "decision_function")


Failure = Disagrees | NotConvertible | NotRunnable | UnusableData


def convert(
    logged: LoggedModel, spec: ReleaseSpec, evaluation: Path, work: Path, *, limits: Limits | None = None
) -> Original:
    """ONNX by skl2onnx, and the original's own answers to the rows as the signature types them. Nothing is
    opened unless the spec trusts its source. `work`: a folder to write to.

    Raises `Permanent`; `Retryable` if the child was killed from outside.
    """
    settings = logged.flavor("sklearn")
    saved_as = str(code_format(logged, "sklearn"))
    refuse_unless_allowed(spec, saved_as, f"is scikit-learn saved as {saved_as}: converting it runs")
    recorded = recorded_versions(logged.folder, settings)
    own = _environment(logged, recorded, saved_as, work) if other_versions(recorded, saved_as) else None
    model = logged.file(str(settings.get("pickled_model") or ""))
    planned = plan(logged, spec.data)
    typed = read_dataset(evaluation, spec.data, planned.typed, columns=planned.typed_columns, labelled=False)
    failures: list[Failure] = []
    for number, attempt in enumerate(planned.attempts):
        folder = work / f"attempt-{number}"
        folder.mkdir(parents=True)
        try:
            rows = read_dataset(evaluation, spec.data, attempt.inputs, columns=planned.columns)
            asked = {**settings, "serialization_format": saved_as}
            path = [] if own else importable()
            differ = "" if own else differing(recorded)
            _write_request(folder, model, asked, spec, attempt, planned, typed, rows, differ, path)
            readable = (logged.folder, *path)
            told = run_converter(CHILD, folder, limits or LIMITS, readable=readable, python=own)
            return _result(folder, told, spec, rows, _asked(logged))
        except (Disagrees, NotConvertible, NotRunnable, UnusableData) as failure:
            failures.append(failure)
    raise _none_agrees(planned, failures, work)


def _environment(logged: LoggedModel, recorded: Recorded, saved_as: str, work: Path) -> Path:
    """The Python and the libraries that it was logged with, and what converts it beside them."""
    pinned = [f"{name}{recorded[name]}" for name in ("scikit-learn", "numpy") if recorded.get(name)]
    reads = {"skops": ["skops"], "cloudpickle": ["cloudpickle"]}.get(saved_as, [])
    return own_interpreter(logged, (*pinned, *reads, "skl2onnx", f"onnx<={onnx.__version__}"), work)


def _none_agrees(planned: Plan, failures: Sequence[Failure], work: Path) -> Permanent:
    """The first failure; or all of them, where rounding to float32 is what changes the original's answers."""
    changed = _changed_by_rounding(work)
    if len(failures) == 1 or not changed:
        return failures[0]
    tried = [
        f"With {attempt}: {failure.problem.rstrip('.')}."
        for attempt, failure in zip(planned.attempts, failures, strict=True)
    ]
    return NotExportable(
        f"the original itself answers {changed:,} rows otherwise when its numbers are rounded to float32."
        f" {' '.join(tried)}",
        remedy="train the model on numbers that float32 holds (a time stamp as seconds since a near date, an"
        " amount in thousands), or log it as ONNX by its own exporter;"
        f" {AS_IT_IS}",
    )


def _changed_by_rounding(work: Path) -> int:
    """How many rows, as the child counted for the last attempt."""
    told = [json.loads(path.read_text()) for path in sorted(work.glob("*/result.json"))]
    return next((int(one["rounded"]) for one in reversed(told) if one.get("rounded")), 0)


def _write_request(
    work: Path,
    model: Path,
    settings: dict[str, Any],
    spec: ReleaseSpec,
    attempt: InputsToTry,
    planned: Plan,
    typed: Dataset,
    rows: Dataset,
    differing: str,
    path: Sequence[Path],
) -> None:
    write_rows(work, typed)
    request = {
        "model": str(model),
        "format": settings["serialization_format"],
        "trusted_types": list(spec.source.skops_trusted_types),
        "code": str(model.parent / settings["code"]) if settings.get("code") else None,
        "inputs": [[spec.name, spec.datatype, list(spec.shape)] for spec in attempt.inputs],
        "narrowed": attempt.narrowed,
        "rows": list(typed.inputs),
        "is_table": planned.is_table,
        "columns": typed.columns,
        "tensors": rows.columns,
        "differing": differing,
        "is_last": attempt == planned.attempts[-1] and len(planned.attempts) > 1,
        "path": list(map(str, path)),
    }
    (work / "request.json").write_text(json.dumps(request))


def _asked(logged: LoggedModel) -> str:
    """The method that is `predict` in MLflow: `pyfunc_predict_fn` may have named another."""
    return str(logged.flavors.get("python_function", {}).get("predict_fn") or "predict")


def _answer(told: dict[str, Any], paired: Paired, method: str) -> dict[str, Any] | None:
    output = next((name for name, asked in paired.methods.items() if asked == method), None)
    return answered_values(output, *told["forms"][method]) if output else NOT_SERVED


def _result(work: Path, told: dict[str, Any], spec: ReleaseSpec, rows: Dataset, asked: str) -> Original:
    path = work / "model.onnx"
    content = read_onnx(path, max_size_mb=spec.source.max_size_mb)
    model = with_computed_types(rows_first(parse(content, path), told["class_counts"]))
    session = open_session(model.SerializeToString(deterministic=True))
    answers = answer(session, rows.inputs, batch_size=spec.serving.max_batch_size)
    tolerance = spec.gates.export_tolerance
    paired = pair(answers, said(work), tolerance=tolerance)
    agreement = agree(paired.answers, answers, tolerance=tolerance, probabilities=paired.probabilities)
    served = without_outputs(model, paired.uncompared)
    return Original(
        served.SerializeToString(deterministic=True),
        rows,
        paired.answers,
        Toolchain("skl2onnx", str(told["versions"])),
        agreement,
        _says(told, paired),
        _notes(paired),
        _answer(told, paired, asked),
    )


def _notes(paired: Paired) -> tuple[str, ...]:
    return tuple(
        f"output `{name}` is not served: nothing that the original says agrees with it"
        for name in paired.uncompared
    )


def _says(told: dict[str, Any], paired: Paired) -> Says:
    return {
        "kind": told["kind"],
        "classes": told["classes"],
        "outputs": paired.roles(told["kind"]),
        "probabilities": {
            name: method == "predict_proba" for name, method in paired.methods.items() if method in _SCORES
        },
        "multilabel": told["multilabel"],
    }
