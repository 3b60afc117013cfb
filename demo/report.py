"""The end of the demo: a table of the releases, why two of them went no further, and every claim checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo.claims import Claim
from demo.facts import ACCURACY, AUC, Happening, Release, Variant
from demo.traffic_log import TrafficLog, percentile
from demo.view import STORY

NONE = "–"
WIDTH = 100
STYLES = {"promoted": "green", "blocked": "magenta", "rolled_back": "red"}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo says at its end. `seconds` is the whole demo, without installation."""

    releases: Sequence[Release]
    claims: Sequence[Claim]
    log: TrafficLog
    seconds: float

    @property
    def holds(self) -> bool:
        return bool(self.claims) and all(claim.holds for claim in self.claims)

    def truth(self) -> str:
        """The one line that matters."""
        words = [f"{self.log.sent:,} requests sent", f"{len(self.log.failed)} failed"]
        for release in self.releases:
            if release.rollback and release.rollback.seconds is not None and release.exposure:
                seen = f"v{release.version} saw {release.exposure.requests} of them"
                words += [seen, f"{release.rollback.seconds:.1f} s from its first failed answer to weight 0"]
        return ", ".join(words)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "holds": self.holds,
            "truth": self.truth(),
            "seconds": round(self.seconds, 1),
            "requests": {"sent": self.log.sent, "failed": len(self.log.failed)},
            "claims": [asdict(claim) for claim in self.claims],
            "releases": [
                {**asdict(release), "clients": clients_saw(self.log, release.version)}
                for release in self.releases
            ],
        }


def clients_saw(log: TrafficLog, version: int) -> dict[str, float]:
    """What clients saw of a version through Envoy: answers, latencies in ms, share of right labels."""
    entries = log.answered_by(version)
    if not entries:
        return {"answers": 0}
    latencies = [entry.latency_ms for entry in entries]
    return {
        "answers": len(entries),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "accuracy": sum(entry.correct for entry in entries) / len(entries),
    }


def print_report(console: Console, report: Report) -> None:
    """Print it, at most `WIDTH` columns wide; exactly so where there is no terminal to ask."""
    if not console.is_terminal:
        console.width = WIDTH
    console.print(Group(*_parts(report)), width=WIDTH)


def _parts(report: Report) -> Iterator[RenderableType]:
    stories = _grid()
    for release in report.releases:
        stories.add_row(Text(f"v{release.version}", style="bold"), release.story)
    yield from (stories, Text(), _table(report), Text(), _steps(report))
    for release in report.releases:
        yield from _why_it_ended(release)
    yield from (Text(), Text("Every claim, checked", style="bold"), _claims(report.claims), Text())
    yield Text(report.truth(), style="bold green" if report.holds else "bold red")
    minutes, seconds = divmod(round(report.seconds), 60)
    yield Text(f"The demo took {minutes} min {seconds} s.", style="dim")


def _grid(*, indent: int = 0) -> Table:
    """Columns side by side; what is too long goes on in its own column."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    if indent:
        grid.add_column(width=indent - 2)
    return grid


Cell = Callable[[Release], RenderableType]


def _table(report: Report) -> Table:
    rows: list[tuple[str, Cell]] = [
        ("ended", _ending),
        ("asked for by", lambda release: release.asked_by),
        ("precision served", lambda release: release.chosen or NONE),
        ("accuracy, before → after", lambda release: _figures(release, ACCURACY)),
        ("AUC, before → after", lambda release: _figures(release, AUC)),
        ("ms a row, fp32 → served", _latency),
        ("clients' p50 / p99, ms", lambda release: _clients(report.log, release)),
        ("requests in the rollout", _exposure),
        ("seconds from ask to end", lambda release: f"{release.seconds:.0f}"),
    ]
    table = Table("", *(f"v{release.version}" for release in report.releases), box=None, header_style="bold")
    table.pad_edge = False
    for title, cell in rows:
        table.add_row(title, *(cell(release) for release in report.releases))
    return table


def _ending(release: Release) -> Text:
    return Text(release.ending.replace("_", " "), style=STYLES.get(release.ending, ""))


def _figures(release: Release, check: str) -> str:
    """Both figures of what was served, or of the fp32 candidate that was not."""
    shown = release.served or _fp32(release)
    found = shown.check(check) if shown else None
    if found is None or found.reference is None or found.value is None:
        return NONE
    after = f"{found.value:.4f}" if release.served else NONE
    return f"{found.reference:.4f} → {after}"


def _fp32(release: Release) -> Variant | None:
    return next((variant for variant in release.variants if variant.precision == "fp32"), None)


def _latency(release: Release) -> str:
    served = release.served
    if served is None or served.before_ms is None or served.after_ms is None:
        return NONE
    return f"{served.before_ms:.3f} → {served.after_ms:.3f}"


def _clients(log: TrafficLog, release: Release) -> str:
    seen = clients_saw(log, release.version)
    return f"{seen['p50_ms']:.1f} / {seen['p99_ms']:.1f}" if seen["answers"] else NONE


def _exposure(release: Release) -> str:
    if release.exposure is None:
        return NONE
    return f"{release.exposure.requests:,}, {release.exposure.errors} failed"


def _steps(report: Report) -> Table:
    table = Table("seconds in", *(f"v{release.version}" for release in report.releases), box=None)
    table.header_style, table.pad_edge = "bold", False
    for column in table.columns[1:]:
        column.justify = "right"
    for name, word in STORY.items():
        seconds = [release.step_seconds.get(name) for release in report.releases]
        table.add_row(word, *(NONE if value is None else f"{value:.1f}" for value in seconds))
    return table


def _why_it_ended(release: Release) -> Iterator[RenderableType]:
    if release.ending == "blocked":
        yield from (Text(), Text(f"Why v{release.version} was blocked", style="bold"), _missed(release))
    elif release.ending == "rolled_back":
        title = f"How v{release.version} was taken out"
        yield from (Text(), Text(title, style="bold"), _timeline(release.happenings))


def _missed(release: Release) -> Table:
    grid = _grid(indent=2)
    for variant in release.variants:
        layout = " for tensorrt" if variant.layout == "tensorrt" else ""
        for check in variant.missed:
            missed = f"{check.name}, missed by {abs(check.observed - check.limit):.4f}"
            grid.add_row("", variant.precision + layout, Group(missed, Text(check.detail, style="dim")))
    return grid


def _timeline(happenings: Sequence[Happening]) -> Table:
    grid = _grid(indent=2)
    for happening in happenings:
        after = (happening.at - happenings[0].at).total_seconds()
        grid.add_row("", f"+{after:.1f} s", f"{happening.kind}: {happening.detail}")
    return grid


def _claims(claims: Sequence[Claim]) -> Table:
    grid = _grid(indent=2)
    for claim in claims:
        mark = Text("ok", style="green") if claim.holds else Text("FALSE", style="bold red")
        grid.add_row("", mark, claim.says, Text(claim.found, style="dim"))
    return grid
