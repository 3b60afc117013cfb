"""The build with Great Expectations itself: data that is refused, and Data Docs of every variant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from model_store import build
from model_store.errors import Permanent
from model_store.gates.choose import NothingPassed
from model_store.gates.expectations import validate_checks
from model_store.gates.signature import VersionSignature, judge_signature
from model_store.stages.base import BuildContext
from model_store.storage.store import Store
from model_store.types import TensorSpec
from tests.build_world import a_world, gated, with_spec
from tests.small_models import Credit


@pytest.fixture
def world(store: Store, credit: Credit) -> BuildContext:
    return with_spec(a_world(store, credit), precisions=["fp16", "fp32"])


def with_files(world: BuildContext, home: Path, *, evaluation: pd.DataFrame, calibration: pd.DataFrame):
    folder = home / "data" / "credit_risk"
    folder.mkdir(parents=True)
    evaluation.to_parquet(folder / "evaluation.parquet", index=False)
    calibration.to_parquet(folder / "calibration.parquet", index=False)
    return replace(world, home=home)


def read(credit: Credit, name: str) -> pd.DataFrame:
    return pd.read_parquet(credit.home / "data" / "credit_risk" / f"{name}.parquet")


def test_good_data_and_all_variants_are_documented_also_when_none_passes(
    world: BuildContext, credit: Credit, tmp_path: Path
) -> None:
    good = {name: read(credit, name) for name in ("evaluation", "calibration")}
    ctx = with_files(with_spec(world, precisions=["fp16", "fp32"]), tmp_path, **good)
    checked = build.check_data_stage(ctx, build.export_stage(ctx))
    assert all(check["passed"] for check in checked["checks"])
    strict = replace(
        ctx,
        spec=ctx.spec.model_copy(
            update={"gates": ctx.spec.gates.model_copy(update={"accuracy": _impossible()})}
        ),
    )
    with pytest.raises(NothingPassed):
        build.choose_stage(strict, gated(strict))
    pages = {path.name for path in ctx.docs.glob("*.html")}
    assert {"index.html", "data-evaluation.html", "data-calibration.html"} < pages
    assert {"gates-fp16-for-onnxruntime.html", "gates-fp32-for-onnxruntime.html"} < pages
    assert "failed" in (ctx.docs / "gates-fp16-for-onnxruntime.html").read_text()


@pytest.mark.parametrize("may_break", [None, 2])
def test_what_breaks_callers_is_in_the_docs_blocked_or_allowed(may_break: int | None, tmp_path: Path) -> None:
    serving, own = (
        VersionSignature(n, (TensorSpec(name, "FP32", (-1, 4)),), ()) for n, name in ((2, "a"), (3, "b"))
    )
    check = judge_signature(serving, own, may_break=may_break)
    assert validate_checks({"fp32": [check]}, tmp_path).passed == {"fp32": may_break == 2}
    page = (tmp_path / "gates-fp32.html").read_text()
    assert "input a FP32[-1, 4] is gone" in page
    assert f"signature against champion v2 must be at most {check.limit:g}" in page


def _impossible():
    from model_store.release_spec import Margin

    return Margin(max_drop=0.01, min=0.999)


def test_calibration_rows_among_the_evaluation_rows_are_refused(
    world: BuildContext, credit: Credit, tmp_path: Path
) -> None:
    evaluation = read(credit, "evaluation")
    calibration = pd.concat([read(credit, "calibration"), evaluation.head(5)])
    ctx = with_files(world, tmp_path, evaluation=evaluation, calibration=calibration)
    exported = build.export_stage(ctx)
    for _ in range(2):  # a refusal is not remembered as a pass
        with pytest.raises(Permanent, match=r"(?i)calibration"):
            build.check_data_stage(ctx, exported)


def test_docs_that_were_removed_are_written_again(
    world: BuildContext, credit: Credit, tmp_path: Path
) -> None:
    good = {name: read(credit, name) for name in ("evaluation", "calibration")}
    ctx = with_files(world, tmp_path, **good)
    exported = build.export_stage(ctx)
    first = build.check_data_stage(ctx, exported)
    (ctx.docs / "index.html").unlink()
    assert build.check_data_stage(ctx, exported) == first
    assert (ctx.docs / "index.html").exists()
