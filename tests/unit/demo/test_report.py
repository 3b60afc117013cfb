"""What the demo prints at its end."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from demo.acts import scenario
from demo.claims import Claim, check_claims
from demo.report import Report, clients_saw, print_report
from demo.traffic_log import TrafficLog
from tests.unit.demo import story


def report() -> Report:
    releases, log = story.releases(), story.log()
    return Report(
        releases, check_claims(replace(scenario("risk"), rate=story.RATE), releases, 2, log), log, 251.0
    )


def printed(shown: Report) -> str:
    file = io.StringIO()
    print_report(Console(file=file), shown)
    return file.getvalue()


def test_the_line_of_truth_has_sent_failed_exposure_and_seconds() -> None:
    assert report().truth() == (
        "6,000 requests sent, 0 failed, v4 saw 40 of them, 2.0 s from its first failed answer to weight 0"
    )


def test_the_report_has_a_column_for_each_release() -> None:
    text = printed(report())
    for words in ("v4", "rolled back", "blocked", "0.8100 → 0.8110", "0.020 → 0.020", "40, 8 failed"):
        assert words in text


def test_the_report_says_which_limit_blocked_a_version_and_by_how_much() -> None:
    text = printed(report())
    assert "fp32  accuracy against champion v2 non-inferiority, missed by 0.0700" in text


def test_the_report_says_how_a_version_was_taken_out() -> None:
    assert "+4.0 s  rolled back: rolled back it was" in printed(report())


def test_a_false_claim_is_called_false() -> None:
    claim = Claim("pigs fly", holds=False, found="none did")
    shown = replace(report(), claims=[claim])
    assert "FALSE  pigs fly  none did" in printed(shown)
    assert not shown.holds


def test_a_report_without_claims_does_not_hold() -> None:
    assert not replace(report(), claims=[]).holds


def test_in_a_pipe_lines_are_a_hundred_columns_wide_without_control_characters() -> None:
    text = printed(report())
    assert 90 < max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_a_narrow_terminal_gets_lines_as_wide_as_it_is() -> None:
    file = io.StringIO()
    terminal = Console(
        file=file, width=70, force_terminal=True, color_system=None, _environ={"TERM": "xterm"}
    )
    print_report(terminal, report())
    assert max(map(len, file.getvalue().splitlines())) <= 70


def test_the_report_as_json_carries_everything() -> None:
    found = json.loads(json.dumps(report().as_json(), default=str))
    assert found["holds"] is True
    assert found["requests"] == {"sent": 6000, "failed": 0}
    assert found["releases"][3]["rollback"]["weight_zero_at"] > 0
    assert found["releases"][0]["clients"]["answers"] > 0


def test_what_clients_saw_of_a_version_comes_from_its_answers() -> None:
    seen = clients_saw(story.log(), 4)
    assert seen["answers"] == 32
    assert seen["p50_ms"] == 2.0
    assert clients_saw(TrafficLog((), 0), 4) == {"answers": 0}
