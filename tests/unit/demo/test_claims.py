"""Every claim of the demo can fail, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from demo.acts import scenario
from demo.claims import Claim, check_claims
from demo.facts import Exposure, Release
from demo.traffic_log import Entry, TrafficLog
from tests.unit.demo import story

Change = Callable[[list[Release]], list[Release]]


def claims(
    releases: list[Release] | None = None, log: TrafficLog | None = None, champion: int | None = 2
) -> list[Claim]:
    return check_claims(
        replace(scenario("risk"), rate=story.RATE), releases or story.releases(), champion, log or story.log()
    )


def false_claims(
    releases: list[Release] | None = None, log: TrafficLog | None = None, champion: int | None = 2
) -> list[str]:
    return [claim.says for claim in claims(releases, log, champion) if not claim.holds]


def changed(version: int, **values: object) -> list[Release]:
    return [
        replace(release, **values) if release.version == version else release  # type: ignore[arg-type]
        for release in story.releases()
    ]


def with_entries(change: Callable[[Entry], Entry | None], *, sent: int | None = None) -> TrafficLog:
    entries = [kept for entry in story.log().entries if (kept := change(entry)) is not None]
    return TrafficLog(tuple(entries), len(entries) if sent is None else sent)


def test_when_all_goes_well_every_claim_holds() -> None:
    assert [claim for claim in claims() if not claim.holds] == []
    assert len(claims()) > 15


def test_one_failed_request_fails_the_demo() -> None:
    log = story.log()
    broken = (replace(log.entries[0], outcome="status 503"), *log.entries[1:])
    assert false_claims(log=TrafficLog(broken, log.sent)) == ["no request failed"]


def test_a_log_without_requests_proves_nothing() -> None:
    assert "no request failed" in false_claims(log=TrafficLog((), 0))


def test_a_request_that_is_not_in_the_log_is_missed() -> None:
    log = story.log()
    lost = TrafficLog(log.entries, log.sent + 1)
    assert false_claims(log=lost) == ["every request is accounted for"]


def test_a_pause_in_the_traffic_is_noticed() -> None:
    paused = with_entries(lambda e: None if story.BEGAN + 40 < e.sent_at < story.BEGAN + 43 else e)
    assert false_claims(log=paused) == ["the traffic was steady all the time"]


def test_traffic_below_its_rate_is_noticed() -> None:
    half = story.log().entries[::2]
    halved = TrafficLog(half, len(half))
    assert "the traffic was steady all the time" in false_claims(log=halved)


def test_an_answer_of_unknown_origin_is_noticed() -> None:
    log = story.log()
    strange = (replace(log.entries[0], version=0), *log.entries[1:])
    assert false_claims(log=TrafficLog(strange, log.sent)) == ["every answer says which version gave it"]


@pytest.mark.parametrize(("version", "ending"), [(2, "rolled_back"), (3, "promoted"), (4, "promoted")])
def test_a_release_that_ends_otherwise_is_noticed(version: int, ending: str) -> None:
    assert "every release ended as it should" in false_claims(changed(version, ending=ending))


@pytest.mark.parametrize("champion", [None, 1, 4])
def test_a_champion_alias_elsewhere_is_noticed(champion: int | None) -> None:
    assert false_claims(champion=champion) == ["v2 is the champion in MLflow"]


def test_a_slower_precision_than_the_fastest_that_passed_is_noticed() -> None:
    assert false_claims(changed(2, chosen="int8")) == [
        "v2 serves the precision measured as fastest of those that passed"
    ]


def test_serving_a_candidate_that_missed_a_gate_is_noticed() -> None:
    bad = (story.variant("fp32", 1.0, champion=-0.5),)
    found = false_claims(changed(2, variants=bad))
    assert "v2 serves a candidate that passed every gate" in found
    assert "v2 was compared with the version before it" in found


def test_a_promoted_version_that_answered_nobody_is_noticed() -> None:
    log = with_entries(lambda e: replace(e, version=1) if e.version == 2 else e)
    assert false_claims(log=log) == ["v2 answered users"]


def test_a_block_for_another_reason_than_accuracy_is_noticed() -> None:
    found = false_claims(changed(3, variants=(story.variant("fp32", 1.0, champion=0.01),)))
    assert found == ["v3 was blocked by the accuracy gate, whatever its precision"]


def test_a_block_without_any_candidate_is_noticed() -> None:
    assert false_claims(changed(3, variants=())) == [
        "v3 was blocked by the accuracy gate, whatever its precision"
    ]


def test_a_blocked_version_that_answered_is_noticed() -> None:
    log = story.log()
    leaked = (replace(log.entries[0], version=3), *log.entries[1:])
    assert false_claims(log=TrafficLog(leaked, log.sent)) == ["v3 never got a request"]


def test_a_blocked_version_that_was_rolled_out_is_noticed() -> None:
    started = (story.happening(0, "started"),)
    assert false_claims(changed(3, happenings=started)) == ["v3 never got a request"]


def test_a_late_rollback_is_noticed() -> None:
    rollback = story.releases()[3].rollback
    assert rollback
    assert rollback.first_error_after
    late = replace(rollback, first_error_after=rollback.first_error_after - 60)
    assert false_claims(changed(4, rollback=late)) == ["v4 had no traffic 20 s after its first failed answer"]


def test_a_rollback_without_a_failed_answer_is_noticed() -> None:
    rollback = story.releases()[3].rollback
    assert rollback
    found = false_claims(changed(4, rollback=replace(rollback, first_error_after=None)))
    assert found == ["v4 had no traffic 20 s after its first failed answer"]


def test_a_version_that_comes_back_after_its_rollback_is_noticed() -> None:
    log = story.log()
    back = (*log.entries[:-1], replace(log.entries[-1], version=4))
    assert false_claims(log=TrafficLog(back, log.sent)) == ["v4 stayed out"]


def test_counts_that_disagree_between_controller_and_clients_are_noticed() -> None:
    assert false_claims(changed(4, exposure=Exposure(80, 8))) == [
        "controller and clients agree on what v4 answered"
    ]


def test_a_rollback_that_nobody_counted_is_noticed() -> None:
    assert false_claims(changed(4, exposure=None)) == ["controller and clients agree on what v4 answered"]


def test_a_version_that_failed_offline_does_not_count_as_passed() -> None:
    found = false_claims(changed(4, variants=(story.variant("fp32", 1.0, champion=-0.5),)))
    assert found == ["v4 passed every gate offline"]
