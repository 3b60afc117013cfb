"""What a release would change for users: the bundle beside what serves now, as people are asked about it.

Made once, when the bundle is published, and kept with the release: MLflow is not asked again to show it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_store.errors import Permanent
from model_store.records import read_report
from model_store.registry import Registry
from model_store.stages.base import BuildContext, Gated
from model_store.types import Check, ModelRef, Precision

# A form that nobody reads to its end informs nobody.
MOST_PARAMETERS, LONGEST_VALUE = 30, 80


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure of the version that serves and of the one that is asked about; None: unknown."""

    name: str
    unit: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the training runs that is not the same; empty where a run has none of the name."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BundleComparison:
    """`before` and `after` name the two, e.g. `v3 as int8`; `before` is empty when nothing serves
    that Slipway released, or this very version does.

    `lost`: slices of the evaluation rows that are answered worse than by the original model, in words, those
    that missed their limit first. `parameters` that differ, and how many `more` there are; None: MLflow has
    no run of one of the two.
    """

    before: str
    after: str
    figures: tuple[Figure, ...]
    lost: tuple[str, ...]
    parameters: tuple[Parameter, ...] | None
    more: int = 0


def compare(
    ctx: BuildContext, registry: Registry, gated: Sequence[Gated], precision: Precision
) -> BundleComparison:
    """The candidate of this precision beside the champion. Raises `Retryable` when MLflow is down."""
    # With it come numpy and onnxruntime, which whoever only reads comparisons does not need.
    from model_store.stages.gate import champion_bundle

    own = _variant(gated, precision)
    checks = read_report(own["report"]).checks if own else ()
    profile = (own or {}).get("profile") or {}
    champion = champion_bundle(ctx)
    manifest = _manifest(ctx, champion) if champion else {}
    number = ctx.registry.aliases(ctx.spec.model).get("champion") if champion else None
    served = _variant(manifest.get("evidence", {}).get("variants", ()), manifest.get("precision", ""))
    parameters, more = _parameters(registry, ctx.ref, number) if number else ((), 0)
    return BundleComparison(
        before=_named(number, manifest.get("precision", "")) if number else "",
        after=_named(ctx.ref.version, precision),
        figures=_figures(checks, profile, (served or {}).get("profile") or {}, manifest),
        lost=_lost(checks),
        parameters=parameters,
        more=more,
    )


def to_json(comparison: BundleComparison) -> dict[str, Any]:
    return asdict(comparison)


def from_json(saved: Mapping[str, Any]) -> BundleComparison:
    """Raises TypeError or KeyError for what is no comparison."""
    parameters = saved["parameters"]
    return BundleComparison(
        before=saved["before"],
        after=saved["after"],
        figures=tuple(Figure(**one) for one in saved["figures"]),
        lost=tuple(saved["lost"]),
        parameters=None if parameters is None else tuple(Parameter(**one) for one in parameters),
        more=saved["more"],
    )


def accuracy_of(checks: Sequence[Check]) -> tuple[float | None, float | None]:
    """The candidate's figure and the original's; None of a model that is not judged by its accuracy."""
    main = _main(checks)
    is_accuracy = main is not None and main.metric in ("", "accuracy")
    return (main.value, main.reference) if main and is_accuracy else (None, None)


def _main(checks: Sequence[Check]) -> Check | None:
    """The first comparison that is neither of a slice nor with the champion."""
    for check in checks:
        if check.value is not None and "[" not in check.name and "champion" not in check.name:
            return check
    return None


def change(figure: Figure) -> str:
    """How much it changed, as a share of what it was; of accuracy the difference."""
    if figure.before is None or figure.after is None:
        return ""
    if not figure.unit:
        return f"{figure.after - figure.before:+.4f}"
    return f"{100 * (figure.after / figure.before - 1):+.0f} %" if figure.before else ""


def in_markdown(comparison: BundleComparison) -> list[str]:
    """Lines for Airflow's form and for messages."""
    before = comparison.before or "nothing to compare with"
    return [
        "### What changes",
        "",
        f"| | {before} | {comparison.after} | |",
        "|---|---|---|---|",
        *(
            f"| {' '.join(filter(None, (one.name, one.unit and f'({one.unit})')))} | {_figure(one.before)} "
            f"| {_figure(one.after)} | {change(one)} |"
            for one in comparison.figures
        ),
        "",
        *_lost_in_markdown(comparison),
        *_parameters_in_markdown(comparison),
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _lost_in_markdown(comparison: BundleComparison) -> list[str]:
    if not comparison.lost:
        return []
    return ["**Slices answered worse than by the original**", "", *map(_item, comparison.lost), ""]


def _item(text: str) -> str:
    return f"- {_code(text)}"


def _parameters_in_markdown(comparison: BundleComparison) -> list[str]:
    if not comparison.before:
        return []
    if comparison.parameters is None:
        return ["Parameters of the training: MLflow has no run of one of the two.", ""]
    if not comparison.parameters:
        return ["The parameters of the training are the same.", ""]
    rows = [
        f"| {_code(one.name)} | {_code(one.before)} | {_code(one.after)} |" for one in comparison.parameters
    ]
    more = [f"And {comparison.more} more.", ""] if comparison.more else []
    return ["| parameter of the training | before | now |", "|---|---|---|", *rows, "", *more]


def _code(text: str) -> str:
    """What others wrote, so that no sign of it is read as Markdown, also not inside a table."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else "–"


def _named(version: int, precision: str) -> str:
    return f"v{version} as {precision}" if precision else f"v{version}"


def _variant(variants: Iterable[Any], precision: str) -> Any:
    """The variant that is served: of two of one precision, the one whose latency could be measured."""
    same = [one for one in variants if one["variant"]["precision"] == precision]
    return next((one for one in same if one.get("profile")), same[0] if same else None)


def _manifest(ctx: BuildContext, bundle_id: str) -> dict[str, Any]:
    """What was measured of the champion when it was built; nothing if its bundle is gone."""
    try:
        return dict(json.loads(ctx.store.manifest(bundle_id, here_first=True)))
    except (Permanent, OSError, ValueError):
        return {}


def _figures(
    checks: Sequence[Check], own: Mapping[str, Any], other: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[Figure, ...]:
    main = _main(checks)
    # Of older reports no check says its metric, and it was accuracy.
    metric = (main.metric if main else "") or "accuracy"
    against = [one for one in checks if "against champion" in one.name and one.reference is not None]
    before = next((one.reference for one in against if (one.metric or "accuracy") == metric), None)
    served = [one for one in manifest.get("artifacts", ()) if one["digest"] == manifest.get("digest")]
    size = served[0]["size_bytes"] if served else None
    return (
        Figure(metric, "", before, main.value if main else None),
        Figure("latency p50", "ms", other.get("p50_ms"), own.get("p50_ms")),
        Figure("latency p99", "ms", other.get("p99_ms"), own.get("p99_ms")),
        Figure("size", "MB", _scaled(size, 1e-6), _scaled(own.get("size_bytes"), 1e-6)),
        Figure("cost", "core-hours per million rows", _cost(other), _cost(own)),
    )


def _cost(profile: Mapping[str, Any]) -> float | None:
    """Of full batches on one thread of the machine that built it."""
    rate = profile.get("rows_per_second")
    return 1e6 / rate / 3600 if rate else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _lost(checks: Sequence[Check]) -> tuple[str, ...]:
    lost = [
        check
        for check in checks
        if "[" in check.name
        and check.value is not None
        and check.reference is not None
        and check.value < check.reference
    ]
    lost.sort(key=lambda check: (check.passed, (check.value or 0) - (check.reference or 0)))
    return tuple(
        f"{check.name.removesuffix(' non-inferiority')}: {check.reference:.4f} -> {check.value:.4f}"
        f"{'' if check.passed else ', missed its limit'}"
        for check in lost
    )


def _parameters(registry: Registry, ref: ModelRef, champion: int) -> tuple[tuple[Parameter, ...] | None, int]:
    try:
        before = registry.parameters(ModelRef(ref.name, champion))
        after = registry.parameters(ref)
    except Permanent:
        # A run that somebody deleted keeps no version from being released.
        return None, 0
    if before is None or after is None:
        return None, 0
    differ = [
        Parameter(_short(name), _short(before.get(name, "")), _short(after.get(name, "")))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    return tuple(differ[:MOST_PARAMETERS]), max(0, len(differ) - MOST_PARAMETERS)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
