"""Geometry of the charts: what `templates/chart.html` draws. Pure numbers and path data, no colours."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from slipway_airflow.books.series import Band, Series

WIDTH, HEIGHT = 1000.0, 200.0
ARMS = ("stable", "candidate")
_Point = tuple[float, float]
# Of the highest value on an axis: people read round numbers.
_ROUND = (1, 2, 3, 4, 5, 6, 8, 10)


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm: SVG path data of its rate and of the band around it. `newest`: in words, for the legend."""

    arm: str
    line: str
    band: str
    newest: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`top`: the highest percent shown. `limit_y`: where the limit is, None if above. `changes`: x of steps.

    `points` are the numbers behind the curves as JSON, for the script that reads them out.
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    top: str
    middle: str
    limit: str
    limit_y: float | None
    changes: tuple[float, ...]
    end_seconds: float
    points: str
    words: str


def rate_chart(series: Series, kind: str) -> Chart:
    """Failed or slow answers of both arms. `kind`: failed or slow."""
    bands: dict[str, Band] = getattr(series, kind)
    limit = series.failed_limit if kind == "failed" else series.slow_limit
    top = _top(bands.values(), limit)
    curves = tuple(_curve(arm, bands[arm], series, top) for arm in ARMS)
    title = "Failed attempts" if kind == "failed" else f"Slower than {series.latency_objective_ms:g} ms"
    return Chart(
        name=kind,
        title=title,
        curves=curves,
        top=f"{top:.3g} %",
        middle=f"{top / 2:.3g} %",
        limit=f"limit {limit:g} %",
        limit_y=HEIGHT * (1 - limit / top) if limit <= top else None,
        changes=_changes(series),
        end_seconds=series.seconds[-1] if series.seconds else 0.0,
        points=_points(series, {arm: bands[arm].rate for arm in ARMS}),
        words=f"{title}: " + ", ".join(f"{curve.arm} {curve.newest}" for curve in curves),
    )


def share_chart(series: Series) -> Chart:
    """The step line: the candidate's percent of the requests."""
    line = _steps([(x, _y(share, 100.0)) for x, share in zip(_xs(series), series.share, strict=True)])
    area = f"{line}L{_xs(series)[-1]:.1f},{HEIGHT}L0,{HEIGHT}Z" if line else ""
    newest = f"{series.share[-1]:g} %" if series.share else "–"
    return Chart(
        name="share",
        title="Candidate's share of requests",
        curves=(Curve("candidate", line, area, newest),),
        top="100 %",
        middle="50 %",
        limit="",
        limit_y=None,
        changes=_changes(series),
        end_seconds=series.seconds[-1] if series.seconds else 0.0,
        points=_points(series, {"candidate": series.share}),
        words=f"Candidate's share of requests: {newest} now",
    )


def _curve(arm: str, band: Band, series: Series, top: float) -> Curve:
    xs = _xs(series)
    newest = next((rate for rate in reversed(band.rate) if rate is not None), None)
    return Curve(
        arm=arm,
        line="".join(_line(part) for part in _parts(xs, band.rate, top)),
        band="".join(
            f"{_line(above)}L{'L'.join(f'{x:.1f},{y:.1f}' for x, y in reversed(below))}Z"
            for above, below in zip(_parts(xs, band.high, top), _parts(xs, band.low, top), strict=True)
            if len(above) > 1
        ),
        newest="too few requests" if newest is None else f"{newest:.2g} %",
    )


def _parts(
    xs: Sequence[float], values: Sequence[float | None], top: float
) -> list[list[tuple[float, float]]]:
    """Points without a gap between them: nothing is drawn where nothing is known."""
    parts: list[list[_Point]] = [[]]
    for x, value in zip(xs, values, strict=True):
        if value is None:
            parts.append([])
        else:
            parts[-1].append((x, _y(value, top)))
    return [part for part in parts if part]


def _line(points: Sequence[_Point]) -> str:
    # A single point is drawn as a dot: a line of no length with a round cap.
    shown = points if len(points) > 1 else [*points, *points]
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in shown)


def _steps(points: Sequence[_Point]) -> str:
    if not points:
        return ""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    return path + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])


def _xs(series: Series) -> list[float]:
    end = max(series.seconds[-1], 1e-9) if series.seconds else 1.0
    return [WIDTH * seconds / end for seconds in series.seconds]


def _y(value: float, top: float) -> float:
    return HEIGHT * (1 - min(value, top) / top)


def _top(bands: Collection[Band], limit: float) -> float:
    """What is worth showing: twice the limit, every rate, and where the bands stand now."""
    rates = [rate for band in bands for rate in band.rate if rate is not None]
    highs = [high for band in bands for high in band.high[-1:] if high is not None]
    highest = 1.05 * max([2 * limit, *rates, *highs])
    size = 10.0 ** math.floor(math.log10(highest))
    return min(100.0, next(size * step for step in _ROUND if size * step >= highest))


def _changes(series: Series) -> tuple[float, ...]:
    xs = _xs(series)
    steps = series.step
    return tuple(round(xs[n], 1) for n in range(1, len(steps)) if steps[n] != steps[n - 1])


def _points(series: Series, values: dict[str, Sequence[float | None]]) -> str:
    return json.dumps({"seconds": series.seconds, **values}, separators=(",", ":"))


def all_of(series: Series) -> list[Chart]:
    """The three charts of a rollout; none before the guard saw anything."""
    if not series.seconds:
        return []
    return [rate_chart(series, "failed"), rate_chart(series, "slow"), share_chart(series)]
