"""Shows a `View`: a picture that changes on a terminal, one line for each piece of news elsewhere.

Both go to standard error, so that standard output holds the report and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.traffic_log import Tally, percentile
from demo.view import STORY, ActView, Step, View, in_words

BAR_CELLS = 50
NEWS_EVERY_SECONDS = 15.0
COLOURS = {1: "blue", 2: "green", 3: "magenta", 4: "red"}
MARKS = {Step.DONE: "●", Step.ACTIVE: "◐", Step.FAILED: "✗", Step.SKIPPED: "–", Step.WAITING: "○"}
STYLES = {Step.DONE: "green", Step.ACTIVE: "bold yellow", Step.FAILED: "bold red"}
ENDINGS = {"promoted": "green", "blocked": "magenta", "rolled_back": "red"}


class Screen(Protocol):
    """Where the demo shows how it goes."""

    def show(self, view: View) -> None:
        """Something may have changed."""
        ...


@contextmanager
def screen(console: Console, *, quiet: bool = False) -> Iterator[Screen]:
    """The right screen for this console; `quiet` shows nothing."""
    if quiet:
        yield Silence()
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield Picture(live)
    else:
        yield News(console)


class Silence:
    """Shows nothing."""

    def show(self, view: View) -> None:
        return


class Picture:
    """Draws the whole view anew each time."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, view: View) -> None:
        self._live.update(draw(view), refresh=True)


class News:
    """Says in a line what changed since it was last shown."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, object] = {}
        self._traffic_at = 0.0

    def show(self, view: View) -> None:
        for act in view.acts:
            self._of_act(view, act)
        if view.doing and self._is_new("doing", view.doing):
            self._say(view, view.doing)
        if view.shares and self._is_new("shares", in_words(view.shares)):
            self._say(view, f"traffic: {in_words(view.shares)}")
        if view.tally and view.tally.total and view.now >= self._traffic_at + NEWS_EVERY_SECONDS:
            self._traffic_at = view.now
            self._say(view, f"{view.tally.total:,} requests sent, {view.tally.failed} failed")

    def _of_act(self, view: View, act: ActView) -> None:
        name = f"v{act.act.version}"
        if act.began is not None and self._is_new(f"{name} began", True):
            self._say(view, f"{name}: {act.act.story}")
        done = [word for step, word in STORY.items() if act.steps.get(step) in (Step.DONE, Step.FAILED)]
        for word in done:
            if self._is_new(f"{name} {word}", True):
                self._say(view, f"{name}: {word}")
        if act.ending and self._is_new(f"{name} ending", act.ending):
            self._say(view, f"{name}: {act.ending.replace('_', ' ')} after {act.seconds(view.now):.0f} s")

    def _is_new(self, topic: str, value: object) -> bool:
        is_new = self._said.get(topic) != value
        self._said[topic] = value
        return is_new

    def _say(self, view: View, words: str) -> None:
        self._console.print(f"[{view.now:4.0f} s] {words}", markup=False, highlight=False, soft_wrap=True)


def draw(view: View) -> RenderableType:
    """The whole picture: releases, the steps of the one on its way, the traffic."""
    lines: list[RenderableType] = [_headline(view), Text()]
    for act in view.acts:
        lines.append(_act_line(view, act))
        if act is view.current:
            lines += _steps_lines(act)
    lines += [Text(), *_traffic(view)] if view.shares else []
    return Group(*lines, Text(), Text(view.doing, style="dim"))


def _headline(view: View) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    minutes, seconds = divmod(int(view.now), 60)
    grid.add_row(Text(view.title, style="bold"), Text(f"{minutes}:{seconds:02d}", style="bold"))
    return grid


def _act_line(view: View, act: ActView) -> Text:
    version, began = act.act.version, act.began is not None
    line = Text("  ").append(f"v{version}  ", style=f"bold {COLOURS[version]}" if began else "dim")
    line.append(f"{act.act.story:<64.64}  ", style="" if began else "dim")
    if act.ending:
        line.append(act.ending.replace("_", " "), style=f"bold {ENDINGS.get(act.ending, '')}")
    elif began:
        line.append("on its way", style="bold yellow")
    if began:
        line.append(f"  {act.seconds(view.now):.0f} s", style="dim")
    return line


def _steps_lines(act: ActView) -> list[Text]:
    """The steps up to the gates, and those after: all of them in one line are more than 100 columns."""
    words = list(STORY.items())
    return [_steps_line(act, words[:6]), _steps_line(act, words[6:])]


def _steps_line(act: ActView, words: list[tuple[str, str]]) -> Text:
    line = Text("      ")
    for name, word in words:
        step = act.steps.get(name, Step.WAITING)
        line.append(f"{MARKS[step]} {word:<10}", style=STYLES.get(step, "dim"))
    return line


def _traffic(view: View) -> list[RenderableType]:
    found: list[RenderableType] = [_split_line(view)]
    if view.tally and view.tally.total:
        found += [_requests_line(view.tally), _answers_line(view.tally)]
    return found


def _split_line(view: View) -> Text:
    line = Text("  traffic   ")
    for version, weight in view.shares.items():
        # A candidate at 1 % still gets a cell of the bar.
        line.append("█" * max(1, round(weight / 100 * BAR_CELLS)), style=COLOURS.get(version, ""))
    return line.append("  ").append(in_words(view.shares), style="bold")


def _requests_line(tally: Tally) -> Text:
    line = Text(f"  requests  {tally.total:,} sent  ")
    line.append(f"{tally.failed} failed", style="bold red" if tally.failed else "bold green")
    answered = [entry.latency_ms for entry in tally.recent if not entry.failed]
    if len(answered) > 1:
        middle, slow = percentile(answered, 0.5), percentile(answered, 0.99)
        line.append(f"  in the last 2 s: p50 {middle:.1f} ms, p99 {slow:.1f} ms", style="dim")
    return line


def _answers_line(tally: Tally) -> Text:
    line = Text("  answers   ")
    for version, count in sorted(tally.answers.items()):
        line.append(f"v{version} {count:,}  ", style=COLOURS.get(version, ""))
    return line
