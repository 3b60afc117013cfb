"""What an alias comes to: it is read again before traffic, and where nothing follows, that is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from slipway_airflow import final_steps
from slipway_airflow.operators import RollOut

from model_store.errors import Retryable
from model_store.types import ModelRef
from serving import composition
from serving.control import aliases, cooldowns, finalization, reconciliation, release_deployment
from serving.control.aliases import AliasNote
from serving.control.notes import NoteKind
from serving.control.queries import outcomes
from serving.control.release_queue import acquire
from serving.control.releases import Cause, Release
from serving.control.traffic import RolloutPhase
from serving.web import read_api
from tests.airflow.desk import API, forget_runs, under_way
from tests.airflow.people import ApiServer
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
NOW = datetime(2026, 11, 21, 21, tzinfo=UTC)


class Said(dict[str, str]):
    """The running task instance, as far as an operator hands something on, and `settle` finds it again."""

    def xcom_push(self, key: str, value: str) -> None:
        self[key] = value

    def xcom_pull(self, task_ids: str, key: str) -> str | None:
        return self.get(key)


def building(world: World, cause: Cause) -> Release:
    """A release of version 2, which the alias named when it began, after its bundle was published."""
    world.serve(1)
    world.registry.aliases_by_model[MODEL]["candidate"] = 2
    asked = world.release(2)
    release = replace(asked, request=replace(asked.request, cause=cause, version="candidate"))
    world.keep(release)
    world.services.attempts.claim(release.ref, cooldowns.run_of(release.request), at=NOW)
    acquire(world.services, release)
    finalization.mark_releasing(world.services, release)
    return release


def roll_out(world: World, release: Release, said: Said) -> None:
    """Until there is something to wait for."""
    task = RollOut(task_id="roll_out", release=release.id, bundle=world.bundle(2).id)
    context: Any = {"ti": said}
    with pytest.raises(TaskDeferred):
        task.look(context)


@pytest.mark.parametrize("cause", [Cause.EVENT, Cause.RECONCILER, Cause.SCHEDULE])
@pytest.mark.parametrize(("now_at", "where"), [(3, "moved to version 3"), (None, "was taken away")])
def test_a_version_that_the_alias_left_while_it_was_built_gets_no_traffic(
    world: World, monkeypatch: pytest.MonkeyPatch, cause: Cause, now_at: int | None, where: str
) -> None:
    release = building(world, cause)
    world.registry.aliases_by_model[MODEL].pop("candidate")
    if now_at:
        world.registry.aliases_by_model[MODEL]["candidate"] = now_at
    said, words = Said(), f"the alias candidate {where} while version 2 was being built"
    with pytest.raises(AirflowSkipException, match=words):
        roll_out(world, release, said)
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]
    monkeypatch.setattr(final_steps, "reasons", lambda context: {})
    monkeypatch.setattr("slipway_airflow.links.point", lambda *_: None)
    context: Any = {"ti": said}
    final_steps.finalize(context, release.id, world.bundle(2).id, [])
    ended = outcomes.of(world.rows, release.id)
    assert ended is not None
    assert (ended.status, ended.reason) == ("superseded", words)
    assert world.lock.read(MODEL).holder is None
    assert world.registry.tags[2]["slipway.reason"] == words


def test_an_alias_that_leaves_while_pods_start_is_seen_before_traffic_too(world: World) -> None:
    release = building(world, Cause.EVENT)
    bundle = world.bundle(2).id
    world.platform.hold_back(bundle)
    assert world.rollouts.begin(release.id, bundle).phase is RolloutPhase.STARTING
    world.registry.aliases_by_model[MODEL]["candidate"] = 1
    world.platform.release(bundle)
    with pytest.raises(AirflowSkipException, match="moved to version 1"):
        roll_out(world, release, Said())
    assert world.router.read(MODEL).candidate is None
    finalization.finalize_traffic(world.services, release, {})
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_what_a_person_asked_for_stands_wherever_the_alias_points(world: World) -> None:
    release = building(world, Cause.PERSON)
    world.registry.aliases_by_model[MODEL]["candidate"] = 3
    roll_out(world, release, Said())


def test_a_rollout_that_has_begun_goes_on_wherever_the_alias_points(world: World) -> None:
    release = building(world, Cause.EVENT)
    deployment = release_deployment.deploy(world.services, release, world.bundle(2).id)
    world.rollouts.start(release.id, deployment.id)
    world.registry.aliases_by_model[MODEL]["candidate"] = 3
    roll_out(world, release, Said())


def test_while_mlflow_is_down_nobody_guesses_where_the_alias_points(world: World) -> None:
    release = building(world, Cause.EVENT)
    world.registry.gone = {"aliases"}
    with pytest.raises(Retryable):
        roll_out(world, release, Said())


def test_an_alias_that_comes_back_to_a_version_it_left_releases_it(world: World) -> None:
    release = building(world, Cause.EVENT)
    world.registry.aliases_by_model[MODEL]["candidate"] = 1
    with pytest.raises(AirflowSkipException):
        roll_out(world, release, Said())
    world.registry.tags[2]["slipway.status"] = "superseded"
    world.services.lock.release(MODEL, release.id)
    world.registry.aliases_by_model[MODEL]["candidate"] = 2
    assert look(world).ref == ModelRef(MODEL, 2)


def test_a_bundle_that_serves_already_is_not_said_to_be_blocked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve(2)
    release, said = world.release(2, second=5), Said()
    acquire(world.services, release)
    with pytest.raises(AirflowSkipException):
        roll_out(world, release, said)
    monkeypatch.setattr(final_steps, "reasons", lambda context: {})
    monkeypatch.setattr("slipway_airflow.links.point", lambda *_: None)
    context: Any = {"ti": said}
    final_steps.finalize(context, release.id, world.bundle(2).id, [])
    assert world.registry.tags[2]["slipway.status"] == "promoted"
    assert "serves already" in world.registry.tags[2]["slipway.reason"]


# What an alias names and nobody releases.


def look(world: World, at: datetime = NOW) -> aliases.AliasDecision:
    return aliases.examine(world.services, MODEL, "candidate", told_by="model_version_alias.created", at=at)


def written(world: World) -> AliasNote | None:
    found = world.services.notes.find(MODEL, NoteKind.ALIAS)
    return aliases.read_note(found) if found else None


def rolled_back(world: World) -> Release:
    release = under_way(world)
    world.rollouts.roll_back(release.id, reason="failed 5 of 9")
    world.registry.tags[2] = {"slipway.status": "rolled_back", "slipway.reason": "failed 5 of 9"}
    world.services.attempts.claim(release.ref, cooldowns.run_of(release.request), at=NOW)
    world.lock.release(MODEL, release.id)
    world.registry.aliases_by_model[MODEL]["candidate"] = 2
    return release


def test_an_alias_on_a_version_that_was_rolled_back_says_why_nothing_follows_and_what_to_do(
    world: World,
) -> None:
    rolled_back(world)
    found = look(world)
    assert (found.ref, found.note) == (None, written(world))
    assert found.note is not None
    assert found.note.words.startswith("the alias candidate names version 2, and starts nothing: version 2")
    assert "was rolled back on 20" in found.note.words
    assert "failed 5 of 9" in found.note.words
    assert "`./slipway release fraud 2 --reason ...`" in found.note.way_out
    later = look(world, NOW + timedelta(hours=1))
    assert later.note is not None
    assert written(world) == found.note, "since when it is so stays"
    world.registry.aliases_by_model[MODEL]["candidate"] = 1
    look(world)
    assert written(world) is None, "the alias names what serves"


def test_the_reconciler_writes_it_down_when_the_webhook_was_lost(world: World) -> None:
    rolled_back(world)
    assert list(reconciliation.missed(world.services, [world.spec], at=NOW)) == []
    note = written(world)
    assert note is not None
    assert note.told_by == "the reconciler"


def test_an_alias_moved_back_to_a_version_that_served_once_says_how_to_go_back(world: World) -> None:
    first = under_way(world)
    for _ in range(20):
        world.tick(first.id)
    world.lock.release(MODEL, first.id)
    world.services.attempts.claim(first.ref, cooldowns.run_of(first.request), at=NOW)
    world.serve(3)
    world.registry.aliases_by_model[MODEL]["candidate"] = 2
    note = look(world).note
    assert note is not None
    assert "version 2 was promoted on 20" in note.words
    assert note.way_out.startswith("`./slipway rollback fraud 2 --reason ...` goes back to it")


def test_a_version_that_is_on_its_way_needs_no_words(world: World) -> None:
    release = building(world, Cause.EVENT)
    assert look(world) == aliases.AliasDecision()
    deployment = release_deployment.deploy(world.services, release, world.bundle(2).id)
    world.rollouts.start(release.id, deployment.id)
    assert look(world) == aliases.AliasDecision()


def test_a_version_that_another_installation_blocked_is_told_of_by_its_tags(world: World) -> None:
    world.serve(1)
    world.registry.aliases_by_model[MODEL]["candidate"] = 3
    world.registry.tags[3] = {"slipway.status": "blocked", "slipway.reason": "12 MB, at most 10"}
    note = look(world).note
    assert note is not None
    assert "version 3 was blocked (12 MB, at most 10)" in note.words


def test_a_model_that_is_held_says_so_where_its_alias_would_start_something(world: World) -> None:
    world.serve(1)
    world.registry.aliases_by_model[MODEL]["candidate"] = 3
    cooldowns.hold(world.services, MODEL, "it fails whatever serves", at=NOW)
    note = look(world).note
    assert note is not None
    assert "nothing of fraud is released by itself since 2026-11-21 21:00:00 UTC" in note.words


def test_page_and_api_tell_it(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_runs()
    world = World(tmp_path)
    monkeypatch.setattr(composition, "wire", lambda home=None: world.services)
    read_api.reset()
    rolled_back(world)
    look(world)
    (one,) = [one for one in server.of("vera").get(f"{API}/standing-still").json() if one["model"] == MODEL]
    assert (one["kind"], "was rolled back on" in one["words"]) == ("alias", True)
    assert server.of("vera").get(f"{API}/models/{MODEL}").json()["stands_still"][0]["kind"] == "alias"
    page = server.browser_of("vera").get(f"/slipway/models/{MODEL}").text
    assert "The alias candidate names version 2, and starts nothing" in page
    assert "<code>./slipway release fraud 2 --reason ...</code>" in page
    read_api.reset()
