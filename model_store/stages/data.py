"""Stage 2: are these the rows we think they are? Great Expectations, and Data Docs under `ctx.docs`."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from model_store.durable import digest_file
from model_store.records import read_tensors
from model_store.stages.base import BuildContext, DataChecked, Exported, Json
from model_store.stages.forms import is_as_logged
from model_store.stages.inputs import calibration_path, evaluation_path, tools


def run(ctx: BuildContext, exported: Exported) -> DataChecked:
    """See `model_store.build.check_data_stage`."""
    key = {
        "model": str(ctx.ref),
        "evaluation": digest_file(evaluation_path(ctx)),
        "calibration": digest_file(calibration_path(ctx)),
        "data": ctx.spec.data.model_dump(mode="json"),
        "columns": exported["columns"],
        "is_as_logged": is_as_logged(exported),
        "tools": tools("great-expectations"),
    }
    checked = ctx.store.memo("check_data", key, lambda: _check(ctx, exported))
    if not ctx.docs.joinpath("index.html").exists():
        # Only its memo may have survived: the docs are not in the store.
        checked = _check(ctx, exported)
    _refuse_unreadable(ctx, exported)
    return cast(DataChecked, checked)


def _refuse_unreadable(ctx: BuildContext, exported: Exported) -> None:
    """What the gates would ask for after minutes of quantizing is asked for now."""
    from model_store.gates.sanity import refuse_trivial
    from model_store.stages.examine import examine

    examined = examine(ctx, exported)
    refuse_trivial(examined.original, examined.exam)


def _check(ctx: BuildContext, exported: Exported) -> Json:
    from model_store.gates.expectations import check_data

    evaluation, calibration = evaluation_path(ctx), calibration_path(ctx)
    inputs, columns = read_tensors(exported["inputs"]), exported["columns"]
    report = check_data(
        ctx.spec,
        evaluation,
        calibration,
        inputs,
        columns=columns,
        docs_dir=ctx.docs,
        as_logged=is_as_logged(exported),
    )
    report.require()
    return {
        "evaluation_digest": digest_file(evaluation),
        "calibration_digest": digest_file(calibration),
        "checks": [asdict(check) for check in report.checks],
        "docs": str(report.index),
    }
