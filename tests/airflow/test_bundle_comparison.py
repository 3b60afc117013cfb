"""What people are told a release would change: figures before and after, slices that lost, parameters."""

from __future__ import annotations

from typing import Any

import pytest

from model_store.bundle import publishing as bundles
from model_store.errors import Permanent
from serving.control import bundle_comparison
from serving.control.build_stages import build_context
from serving.control.bundle_comparison import BundleComparison, Figure, Parameter
from tests.airflow.world import World

PROFILE = {"p50_ms": 0.5, "p99_ms": 1.0, "rows_per_second": 10_000.0, "size_bytes": 2_000_000}
MARGIN: dict[str, Any] = {"observed": -0.01, "limit": -0.02, "passed": True, "detail": ""}


def variant(*checks: dict[str, Any], precision: str = "fp32", **profile: float) -> Any:
    return {
        "variant": {"precision": precision, "layout": "onnxruntime"},
        "report": {"dataset_digest": "sha256:0", "checks": list(checks)},
        "profile": {**PROFILE, **profile},
        "reasons": [],
    }


def check(name: str, before: float, after: float, **more: Any) -> dict[str, Any]:
    return {**MARGIN, "name": name, "reference": before, "value": after, **more}


@pytest.fixture
def served(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Version 1 serves, as a bundle whose evidence says how fast it was."""
    contents = world._contents(1)
    evidence = {"variants": [variant(p50_ms=1.0, p99_ms=4.0, rows_per_second=5_000.0)]}
    made = bundles.publish(world.store, bundles.BundleContents(**{**_fields(contents), "evidence": evidence}))
    world.serve(1)
    world.registry.set_tags(made.model, {"slipway.bundle": made.id})
    return world


def _fields(contents: Any) -> dict[str, Any]:
    return {name: getattr(contents, name) for name in type(contents).__dataclass_fields__}


def compare(world: World, *gated: Any) -> BundleComparison:
    ctx = build_context(world.services, world.release(2))
    return bundle_comparison.compare(ctx, world.services.registry, gated, "int8")


def int8(*checks: dict[str, Any]) -> Any:
    return variant(*checks, precision="int8")


def figures(found: BundleComparison) -> dict[str, tuple[float | None, float | None]]:
    return {one.name: (one.before, one.after) for one in found.figures}


def test_every_figure_is_shown_before_and_after(served: World) -> None:
    on_same_rows = check("accuracy against champion v1 non-inferiority", 0.90, 0.92)
    found = compare(served, int8(check("accuracy non-inferiority", 0.93, 0.92), on_same_rows))
    assert (found.before, found.after) == ("v1 as fp32", "v2 as int8")
    shown = figures(found)
    assert shown["accuracy"] == (0.90, 0.92)
    assert shown["latency p50"] == (1.0, 0.5)
    assert shown["latency p99"] == (4.0, 1.0)
    assert shown["size"][1] == pytest.approx(2.0)
    assert shown["size"][0] is not None
    assert shown["cost"] == (pytest.approx(1e6 / 5_000 / 3600), pytest.approx(1e6 / 10_000 / 3600))


def test_the_candidate_that_is_served_is_the_one_that_is_compared(served: World) -> None:
    other = variant(precision="int8")
    other["profile"] = None
    assert figures(compare(served, variant(), other, int8()))["latency p50"] == (1.0, 0.5)


def test_slices_that_lost_are_named_the_worst_first(served: World) -> None:
    found = compare(
        served,
        int8(
            check("accuracy [age=young] non-inferiority", 0.90, 0.89),
            check("accuracy [age=old] non-inferiority", 0.90, 0.91),
            check("accuracy [age=middle] non-inferiority", 0.90, 0.80, passed=False),
            check("auc [age=young] non-inferiority", 0.95, 0.90),
        ),
    )
    assert found.lost == (
        "accuracy [age=middle]: 0.9000 -> 0.8000, missed its limit",
        "auc [age=young]: 0.9500 -> 0.9000",
        "accuracy [age=young]: 0.9000 -> 0.8900",
    )


def test_parameters_that_differ_are_shown_and_no_others(served: World) -> None:
    assert compare(served, int8()).parameters == (Parameter("depth", "1", "2"),)


def test_of_many_parameters_the_rest_is_counted(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(ref: Any) -> dict[str, str]:
        return (
            {f"p{number:03}": "x" * 500 + str(ref.version) for number in range(100)}
            if ref.version > 1
            else {}
        )

    monkeypatch.setattr(served.registry, "parameters", many)
    found = compare(served, int8())
    assert found.parameters is not None
    assert (len(found.parameters), found.more) == (30, 70)
    assert {len(one.after) for one in found.parameters} == {80}


def test_a_version_without_a_run_or_with_a_deleted_one_is_released_all_the_same(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.registry, "parameters", lambda ref: None if ref.version == 1 else {})
    assert compare(served, int8()).parameters is None

    def gone(ref: Any) -> dict[str, str]:
        raise Permanent("no such run", remedy="none")

    monkeypatch.setattr(served.registry, "parameters", gone)
    found = compare(served, int8())
    assert found.parameters is None
    assert "MLflow has no run of one of the two" in "\n".join(bundle_comparison.in_markdown(found))


def test_a_champion_whose_bundle_is_gone_is_named_without_figures(served: World) -> None:
    served.registry.tags[1]["slipway.bundle"] = "0" * 24
    found = compare(served, int8())
    assert found.before == "v1"
    assert {before for before, _ in figures(found).values()} == {None}


def test_a_first_version_is_compared_with_nothing(world: World) -> None:
    found = compare(world, int8())
    assert (found.before, found.parameters) == ("", ())
    words = "\n".join(bundle_comparison.in_markdown(found))
    assert "nothing to compare with" in words
    assert "parameter" not in words


def test_a_comparison_is_kept_with_the_release(served: World) -> None:
    found = compare(served, int8(check("accuracy [a=b]", 0.9, 0.8)))
    release = served.release(2)
    served.releases.built(release.id, "b" * 24, at=release.request.at, compared=found)
    assert served.releases.load(release.id).bundles[-1].compared == found


def test_what_others_wrote_is_no_markdown() -> None:
    hostile = "a | b\n\n# [click](http://evil) `x` <b>"
    found = BundleComparison("v1", "v2", (), (hostile,), (Parameter(hostile, "", hostile),))
    lines = bundle_comparison.in_markdown(found)
    item = next(line for line in lines if line.startswith("- "))
    assert item == "- `a \\| b # [click](http://evil) 'x' <b>`"
    row = next(line for line in lines if line.startswith("| `a"))
    assert row.replace("\\|", "").count("|") == 4


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure("accuracy", "", 0.9, 0.91), "+0.0100"),
        (Figure("size", "MB", 2.0, 1.0), "-50 %"),
        (Figure("size", "MB", None, 1.0), ""),
        (Figure("size", "MB", 0.0, 1.0), ""),
    ],
)
def test_a_change_is_a_share_and_of_accuracy_a_difference(figure: Figure, words: str) -> None:
    assert bundle_comparison.change(figure) == words
