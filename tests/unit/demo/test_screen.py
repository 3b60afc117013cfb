"""The demo on a terminal, on a dumb one, and in a file."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from demo.acts import SCENARIOS
from demo.screen import Picture, draw, screen
from demo.traffic_log import HEADER, Entry, Tally
from demo.view import ActView, Step, View

ESCAPE = "\x1b"


def view(tmp_path: Path) -> View:
    acts = [ActView(act) for act in SCENARIOS["risk"].acts]
    acts[0].began, acts[0].ended, acts[0].ending = 30.0, 60.0, "promoted"
    acts[1].began, acts[1].steps = 61.0, {"export": Step.DONE, "gate": Step.ACTIVE}
    (tmp_path / "log").write_text(
        HEADER + "".join(Entry(t, 2.0, "ok", 1, correct=True).line() for t in range(9))
    )
    return View(
        "Slipway demo: credit_risk",
        acts,
        "waiting",
        75.0,
        {1: 95.0, 2: 5.0},
        Tally(tmp_path / "log").update(),
    )


def text_of(seen: View, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(draw(seen))
    return captured.get()


def test_the_picture_shows_every_release_its_steps_and_the_traffic(tmp_path: Path) -> None:
    text = text_of(view(tmp_path))
    for words in (
        "v1",
        "promoted",
        "v4",
        "● export",
        "◐ gates",
        "○ roll out",
        "v1 95 %, v2 5 %",
        "9 sent",
        "0 failed",
    ):
        assert words in text


def test_the_picture_fits_a_terminal_of_a_hundred_columns_and_forty_lines(tmp_path: Path) -> None:
    lines = text_of(view(tmp_path)).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 20


def test_before_the_first_release_there_is_no_traffic_to_show() -> None:
    early = View("Slipway demo", [ActView(act) for act in SCENARIOS["risk"].acts], "starting the stack")
    assert "traffic" not in text_of(early)


def test_in_a_pipe_news_are_lines_without_control_characters(tmp_path: Path) -> None:
    file = io.StringIO()
    with screen(Console(file=file)) as shown:
        shown.show(view(tmp_path))
    said = file.getvalue()
    assert ESCAPE not in said
    assert "\r" not in said
    assert "v1: promoted after 30 s" in said
    assert "v2: export" in said


def test_a_dumb_terminal_gets_lines_too(tmp_path: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, _environ={"TERM": "dumb"})
    with screen(console) as shown:
        shown.show(view(tmp_path))
        assert not isinstance(shown, Picture)
    assert ESCAPE not in file.getvalue()


def test_news_are_said_once(tmp_path: Path) -> None:
    file, seen = io.StringIO(), view(tmp_path)
    with screen(Console(file=file)) as shown:
        shown.show(seen)
        before = file.getvalue()
        shown.show(seen)
        assert file.getvalue() == before
        seen.shares, seen.now = {1: 75.0, 2: 25.0}, 80.0
        shown.show(seen)
    assert file.getvalue().removeprefix(before).splitlines() == ["[  80 s] traffic: v1 75 %, v2 25 %"]


def test_a_terminal_gets_the_picture() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm-256color"})
    with screen(console) as shown:
        assert isinstance(shown, Picture)


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    file = io.StringIO()
    with screen(Console(file=file), quiet=True) as shown:
        shown.show(view(tmp_path))
    assert file.getvalue() == ""


def test_no_story_is_cut_off(tmp_path: Path) -> None:
    seen = view(tmp_path)
    assert all(act.act.story in text_of(seen) for act in seen.acts)
