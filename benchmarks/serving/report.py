"""Tables, and the targets with what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.serving.against_peers import Comparison
from benchmarks.serving.cached import HitRate, Hits
from benchmarks.serving.protocols import Spoken
from benchmarks.serving.under_load import HalfLoad, Soak

# Wide enough for the tables also where the output is a file.
console = Console(width=120)

# Requests/s against the best peer, and rows/s against the raw engine, that each model must reach.
_TIMES_BEST_PEER = {"mlp": 5.0, "cnn": 3.0}
_SHARE_OF_RAW = {"cnn": 0.6, "minilm": 0.9}


@dataclass(frozen=True, slots=True)
class Target:
    """A promise of the project and what this run found."""

    name: str
    found: float
    limit: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def comparison(found: Comparison) -> list[Target]:
    ours, *others = found.scores
    best = max((score.per_second for score in others), default=float("nan"))
    raw = f"{found.raw_one:,.0f} rows/s one by one, {found.raw_batch:,.0f} in batches of 32"
    title = f"{found.subject}: raw engine {raw}"
    columns = (
        "server",
        "requests/s",
        "x best peer",
        "p50 ms",
        "p99 ms",
        "CPU s / 1,000",
        "memory MB",
        "failed",
    )
    rows = [
        (s.server, f"{s.per_second:,.0f}", f"{s.per_second / best:.2f}", f"{s.p50_ms:.2f}", f"{s.p99_ms:.2f}",
         f"{s.cpu_per_thousand:.3f}", f"{s.memory_mb:.0f}", str(s.failed))
        for s in found.scores
    ]  # fmt: skip
    _table(title, columns, rows)
    targets = [Target(f"{found.subject}: failed requests", ours.failed, 0, at_least=False)]
    if others and found.subject in _TIMES_BEST_PEER:
        name = f"{found.subject}: requests/s against the best peer"
        targets.append(Target(name, ours.per_second / best, _TIMES_BEST_PEER[found.subject]))
        lowest = min(score.p99_ms for score in others)
        targets.append(
            Target(f"{found.subject}: p99 ms, below every peer's", ours.p99_ms, lowest, at_least=False)
        )
    if found.subject in _SHARE_OF_RAW:
        name = f"{found.subject}: share of the raw engine's rows/s (one by one)"
        targets.append(Target(name, ours.per_second / found.raw_one, _SHARE_OF_RAW[found.subject]))
    return targets


def protocols(model: str, rows: Sequence[Spoken]) -> list[Target]:
    columns = ("protocol", "requests/s", "p99 ms", "CPU s / 1,000", "failed")
    _table(
        f"{model}: three protocols, one pod",
        columns,
        [
            (
                r.protocol,
                f"{r.per_second:,.0f}",
                f"{r.p99_ms:.2f}",
                f"{r.cpu_per_thousand:.4f}",
                str(r.failed),
            )
            for r in rows
        ],
    )
    json = rows[0]
    return [
        Target(f"{model}: {r.protocol} requests/s against JSON", r.per_second / json.per_second, 1.0)
        for r in rows[1:]
    ]


def half_load(model: str, found: HalfLoad) -> list[Target]:
    words = f"{found.per_second:,.0f} requests/s: p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms"
    bare = f"only computing, on the same machine, p99 {found.bare_p99_ms:.2f} ms"
    console.print(f"{model} at half its peak: {words}, {found.failed} refused ({bare})")
    return [
        Target(f"{model}: p99 ms at half load", found.p99_ms, found.limit_ms, at_least=False),
        Target(f"{model}: refused at half load", found.failed, 0, at_least=False),
    ]


def cache(hits: Sequence[Hits], rate: HitRate) -> list[Target]:
    columns = ("protocol", "computed/s", "cached/s", "times", "fixed bytes/s", "times")
    rows = [
        (
            h.protocol,
            f"{h.computed_per_second:,.0f}",
            f"{h.cached_per_second:,.0f}",
            f"{h.cached_per_second / h.computed_per_second:.1f}",
            f"{h.bare_per_second:,.0f}",
            f"{h.bare_per_second / h.computed_per_second:.1f}",
        )
        for h in hits
    ]
    _table("cnn: computed and cached", columns, rows)
    console.print(
        f"hit rate {rate.rate:.1%} with {rate.cache_mb:g} MB (room for {rate.entries:,} answers); "
        f"an ideal cache of that size: {rate.ideal:.1%}"
    )
    targets = [
        Target(
            f"cache: {h.protocol} hits against computing", h.cached_per_second / h.computed_per_second, 8.0
        )
        for h in hits
    ]
    return [*targets, Target("cache: hit rate on Zipf 1.1 over 100,000 keys", rate.rate, 0.92)]


def soak(found: Soak) -> list[Target]:
    columns = ("", "answers", "p50 ms", "p99 ms")
    named = (
        ("calm (80 % of peak)", found.calm),
        ("accepted", found.accepted),
        ("shed (503)", found.shed),
        ("high priority", found.high_accepted),
    )
    rows = [
        (name, f"{a.count:,}", f"{a.p50_ms:.2f}", f"{a.p99_ms:.2f}") for name, a in named if a is not None
    ]
    rates = f"{found.offered_per_second:,.0f} requests/s (peak {found.peak_per_second:,.0f})"
    _table(f"cnn, {found.seconds} s at {rates}", columns, rows)
    over_time = ", ".join(map(str, found.memory_mb))
    console.print(f"memory MB over time: {over_time}; high priority: {found.high_statuses}")
    memory = found.memory_mb[-1] / found.memory_mb[0]
    return [
        Target(
            "soak: accepted p99 against calm", found.accepted.p99_ms / found.calm.p99_ms, 2.0, at_least=False
        ),
        Target("soak: high priority requests failed", found.high_failed, 0, at_least=False),
        Target("soak: neither answered nor shed", found.other_failed, 0, at_least=False),
        Target("soak: memory at the end against the start", memory, 1.1, at_least=False),
    ]


def targets(found: Sequence[Target]) -> None:
    rows = [
        (
            t.name,
            f"{t.found:,.2f}",
            f"{'>=' if t.at_least else '<='} {t.limit:,.2f}",
            "met" if t.is_met else "MISSED",
        )
        for t in found
    ]
    _table("Targets", ("target", "found", "limit", ""), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
