"""Geometry of the charts: what `templates/chart.html` draws. Pure numbers and path data, no colours.

Every chart of a release has the same time axis, both arms, and marks where the share was shifted and where
the release was rolled back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from serving.control.queries.flow import Flow, Numbers
from serving.control.queries.series import Band, Series
from serving.figures import figures

WIDTH, HEIGHT = 1000.0, 200.0
ARMS = ("stable", "candidate")
# From the bottom up, as they are drawn on each other; with the words for people.
KINDS = {
    "failed": "5xx or none",
    "refused": "refused by the model",
    "malformed": "other 4xx",
    "answered": "2xx",
}
_Point = tuple[float, float]
# Of the highest value on an axis: people read round numbers.
_ROUND = (1, 2, 3, 4, 5, 6, 8, 10)
# Labels nearer to each other than this, of 1000, would lie on each other.
_LABEL_ROOM = 90.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A line and the area that belongs to it, as SVG path data. `newest`: in words, for the legend.

    `look` is its class: an arm, or a kind of answer.
    """

    name: str
    look: str
    line: str
    area: str
    newest: str


@dataclass(frozen=True, slots=True)
class ShiftMark:
    """Where the candidate's share changed. `label`: empty where there is no room for one."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`top`: the highest value shown. `limit_y`: where the limit is, None if above. `ended_x`: where the
    release was rolled back. `missing`: why nothing is drawn.

    `points` are the numbers behind the curves as JSON, for the script that reads them out.
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    top: str
    middle: str
    limit: str
    limit_y: float | None
    shifts: tuple[ShiftMark, ...]
    ended_x: float | None
    end_seconds: float
    points: str
    words: str
    missing: str = ""


def all_of(series: Series) -> list[Chart]:
    """Those of a rollout; none before the controller saw anything."""
    if not series.seconds:
        return []
    return [
        band_chart(series, "failed"),
        rate_chart(series),
        latency_chart(series),
        band_chart(series, "slow"),
        *(kinds_chart(series, arm) for arm in ARMS),
    ]


def band_chart(series: Series, kind: str) -> Chart:
    """Failed or slow answers of both arms since the release began, with their bands."""
    bands: dict[str, Band] = getattr(series, kind)
    limit = series.failed_limit if kind == "failed" else series.slow_limit
    top = min(100.0, _round_top([2 * limit, *_shown(bands.values())]))
    xs = _xs(series, series.seconds)
    curves = tuple(
        Curve(arm, arm, _lines(xs, bands[arm].rate, top), _area(xs, bands[arm], top), _of(series, kind, arm))
        for arm in ARMS
    )
    slower = f"Slower than {series.latency_objective_ms:g} ms"
    title = "Failed attempts" if kind == "failed" else slower
    lines = {arm: bands[arm].rate for arm in ARMS}
    return _chart(series, kind, f"{title}, since the start", curves, series.seconds, lines, top, "%", limit)


def rate_chart(series: Series) -> Chart:
    """How many requests a second each arm answered."""
    lines = {arm: series.flow[arm].per_second for arm in ARMS}
    top = _round_top([value for values in lines.values() for value in values if value is not None] or [1.0])
    curves = tuple(Curve(arm, arm, _bars(series, lines[arm], top), "", _last(lines[arm])) for arm in ARMS)
    return _chart(series, "rate", "Requests per second", curves, series.intervals, lines, top, "/s")


def latency_chart(series: Series) -> Chart:
    """p50 and p99 of both arms."""
    lines: dict[str, Numbers] = {}
    for arm in ARMS:
        lines |= {f"{arm} p50": series.latency[arm].p50_ms, f"{arm} p99": series.latency[arm].p99_ms}
    known = [value for values in lines.values() for value in values if value is not None]
    top = _round_top(known or [1.0])
    curves = tuple(
        Curve(
            name,
            f"{name} {'median' if name.endswith('p50') else 'tail'}",
            _lines(_xs(series, series.latency[name.split()[0]].seconds), values, top),
            "",
            _last(values, " ms"),
        )
        for name, values in lines.items()
    )
    objective = series.latency_objective_ms
    seconds = max((series.latency[arm].seconds for arm in ARMS), key=len)
    missing = "" if known else "not recorded"
    return _chart(
        series, "latency", "Latency, p50 and p99", curves, seconds, lines, top, "ms", objective, missing
    )


def kinds_chart(series: Series, arm: str) -> Chart:
    """What one arm's answers were, of all of an interval: the kinds lie on each other up to 100 %."""
    flow = series.flow[arm]
    is_known = any(value is not None for value in flow.answered)
    kinds = [kind for kind in KINDS if is_known or kind == "failed"]
    curves, below = [], [0.0] * len(series.intervals)
    for kind in kinds:
        values: Numbers = getattr(flow, kind)
        above = [low + (value or 0.0) for low, value in zip(below, values, strict=True)]
        area = _stack(series, below, above, flow)
        curves.append(Curve(KINDS[kind], f"kind-{kind}", "", area, _total(series, arm, kind)))
        below = above
    title = f"Answers of {arm}"
    lines = {KINDS[kind]: getattr(flow, kind) for kind in kinds}
    missing = "" if any(value is not None for value in flow.failed) else "no requests"
    if not is_known and not missing:
        title += " (2xx and 4xx not recorded)"
    return _chart(
        series, f"kinds-{arm}", title, tuple(curves), series.intervals, lines, 100.0, "%", missing=missing
    )


def _chart(
    series: Series,
    name: str,
    title: str,
    curves: tuple[Curve, ...],
    seconds: Sequence[float],
    lines: dict[str, Numbers],
    top: float,
    unit: str,
    limit: float | None = None,
    missing: str = "",
) -> Chart:
    space = "" if unit == "/s" else " "
    words = {"ms": "objective", "%": "limit"}.get(unit, "")
    return Chart(
        name=name,
        title=title,
        curves=curves,
        top=f"{top:.3g}{space}{unit}",
        middle=f"{top / 2:.3g}{space}{unit}",
        limit=f"{words} {limit:g}{space}{unit}" if limit is not None else "",
        limit_y=HEIGHT * (1 - limit / top) if limit is not None and limit <= top else None,
        shifts=_shifts(series),
        ended_x=None if series.ended is None else _x(series, series.ended),
        end_seconds=series.end,
        points=_points(seconds, lines, unit, series.end),
        words=f"{title}: {missing or ', '.join(f'{curve.name} {curve.newest}' for curve in curves)}",
        missing=missing,
    )


def _of(series: Series, kind: str, arm: str) -> str:
    """`56 % (5 of 9)`: never a rate without what it is of, nor silence where there are counts."""
    whole = series.requests[arm]
    slow = sum(step.arms[arm].slow for step in series.steps)
    bad = series.outcomes[arm].failed[-1] if kind == "failed" else slow
    return f"{figures(100 * bad / whole)} % ({bad:,} of {whole:,})" if whole else "no requests"


def _total(series: Series, arm: str, kind: str) -> str:
    counts: tuple[int, ...] = getattr(series.outcomes[arm], kind)
    return f"{counts[-1]:,}"


def _last(values: Iterable[float | None], unit: str = "") -> str:
    newest = next((value for value in reversed(tuple(values)) if value is not None), None)
    return "not recorded" if newest is None else f"{figures(newest)}{unit}"


def _parts(xs: Sequence[float], values: Sequence[float | None], top: float) -> list[list[_Point]]:
    """Points without a gap between them: nothing is drawn where nothing is known."""
    parts: list[list[_Point]] = [[]]
    for x, value in zip(xs, values, strict=True):
        if value is None:
            parts.append([])
        else:
            parts[-1].append((x, _y(value, top)))
    return [part for part in parts if part]


def _lines(xs: Sequence[float], values: Sequence[float | None], top: float) -> str:
    return "".join(_line(part) for part in _parts(xs, values, top))


def _line(points: Sequence[_Point]) -> str:
    # A single point is drawn as a dot: a line of no length with a round cap.
    shown = points if len(points) > 1 else [*points, *points]
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in shown)


def _area(xs: Sequence[float], band: Band, top: float) -> str:
    return "".join(
        f"{_line(above)}L{'L'.join(f'{x:.1f},{y:.1f}' for x, y in reversed(below))}Z"
        for above, below in zip(_parts(xs, band.high, top), _parts(xs, band.low, top), strict=True)
        if len(above) > 1
    )


def _bars(series: Series, values: Numbers, top: float) -> str:
    """A level for each interval, joined where they follow each other."""
    path, is_open = "", False
    for (left, right), value in zip(_spans(series), values, strict=True):
        if value is not None:
            y = _y(value, top)
            path += f"V{y:.1f}H{right:.1f}" if is_open else f"M{left:.1f},{y:.1f}H{right:.1f}"
        is_open = value is not None
    return path


def _stack(series: Series, below: Sequence[float], above: Sequence[float], flow: Flow) -> str:
    path = ""
    for (left, right), low, high, known in zip(_spans(series), below, above, flow.failed, strict=True):
        if known is not None and high > low:
            path += f"M{left:.1f},{_y(low, 100):.1f}V{_y(high, 100):.1f}H{right:.1f}V{_y(low, 100):.1f}Z"
    return path


def _spans(series: Series) -> list[tuple[float, float]]:
    xs = _xs(series, series.intervals)
    return list(zip([0.0, *xs], xs, strict=False))


def _shifts(series: Series) -> tuple[ShiftMark, ...]:
    found: list[ShiftMark] = []
    labelled = -_LABEL_ROOM
    for seconds, weight in series.shifts:
        x = _x(series, seconds)
        has_room = labelled + _LABEL_ROOM <= x <= WIDTH - _LABEL_ROOM / 2
        labelled = x if has_room else labelled
        found.append(ShiftMark(x, f"{weight:g} %" if has_room else ""))
    return tuple(found)


def _xs(series: Series, seconds: Iterable[float]) -> list[float]:
    return [_x(series, at) for at in seconds]


def _x(series: Series, seconds: float) -> float:
    return round(WIDTH * min(seconds / max(series.end, 1e-9), 1.0), 1)


def _y(value: float, top: float) -> float:
    return HEIGHT * (1 - min(value, top) / top)


def _shown(bands: Collection[Band]) -> list[float]:
    """What of the bands is worth showing: every rate, and where they stand now."""
    rates = [rate for band in bands for rate in band.rate if rate is not None]
    return [*rates, *(high for band in bands for high in band.high[-1:] if high is not None)]


def _round_top(values: Collection[float]) -> float:
    highest = 1.05 * max([*values, 1e-3])
    size = 10.0 ** math.floor(math.log10(highest))
    return next(size * step for step in _ROUND if size * step >= highest)


def _points(seconds: Sequence[float], lines: dict[str, Numbers], unit: str, end: float) -> str:
    said = {"seconds": seconds, "end": end, "unit": unit, "lines": lines}
    return json.dumps(said, separators=(",", ":"))
