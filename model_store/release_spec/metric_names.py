"""Whether the names under `gates` are metrics, and whether their limits are on the right side."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from model_store.errors import Permanent
from model_store.release_spec.section import Found

if TYPE_CHECKING:
    from model_store.metrics.base import Metric
    from model_store.release_spec.gates import Margin

# Judged by default, so that most specs are read without numpy: Airflow reads all of them again and again.
_HIGHER_IS_BETTER = frozenset({"accuracy", "auc"})
_NO_SHARES = frozenset({"r2"})


class NamedMetric(NamedTuple):
    """A metric's name at a field of the spec, with its margin; None where the metric is left out."""

    field: tuple[str | int, ...]
    name: str
    margin: Margin | None


def misnamed(named: Sequence[NamedMetric], fields: frozenset[str]) -> list[Found]:
    """What is wrong with each. `fields`: what else the section knows, for whoever mistyped one of those."""
    return [found for one in named for found in _wrong(one, fields)]


def _wrong(named: NamedMetric, fields: frozenset[str]) -> list[Found]:
    if named.name in _HIGHER_IS_BETTER:
        return _wrong_side(named, higher_is_better=True, is_share=True)
    from model_store.metrics.registry import metric

    try:
        known = metric(named.name)
    except Permanent as unknown:
        return [(named.field, _unknown(named.name, fields, unknown))]
    return _wrong_side(named, higher_is_better=known.higher_is_better, is_share=_is_share(known))


def _is_share(metric: Metric) -> bool:
    """Whether its values are between 0 and 1."""
    return metric.higher_is_better and not metric.relative and metric.name not in _NO_SHARES


def _wrong_side(named: NamedMetric, *, higher_is_better: bool, is_share: bool) -> list[Found]:
    margin = named.margin
    if margin is None:
        return []
    if higher_is_better and not margin.is_drop:
        wrong = f"of {named.name} higher is better: write max_drop: {margin.allowed:g}"
        return [((*named.field, "max_increase"), wrong)]
    if not higher_is_better and margin.is_drop:
        wrong = f"{named.name} is an error, and lower is better: write max_increase: {margin.allowed:g}"
        return [((*named.field, "max_drop"), wrong)]
    return _no_share(named, margin) if is_share else []


def _no_share(named: NamedMetric, margin: Margin) -> list[Found]:
    found: list[Found] = []
    for side in ("min", "max"):
        value = getattr(margin, side)
        if value is not None and not 0 <= value <= 1:
            hint = f": a share, not percent: {value / 100:g}" if 1 < value <= 100 else ""
            found.append(((*named.field, side), f"must be between 0 and 1, got `{value:g}`{hint}"))
    return found


def _unknown(name: str, fields: frozenset[str], refused: Permanent) -> str:
    from model_store.metrics.registry import known

    if "there is no metric" not in refused.problem:
        return f"{refused.problem} -> {refused.remedy}"
    allowed = sorted({*known(), *fields})
    close = get_close_matches(name.replace("-", "_").lower(), allowed, n=1, cutoff=0.6)
    meant = f" -> did you mean `{close[0]}`?" if close else ""
    return f"unknown field; allowed: {', '.join(allowed)}{meant}"
