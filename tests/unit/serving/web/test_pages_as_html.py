"""Pages as HTML: what stands first, in whose words, and which button counts."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page.home import ModelFiles
from serving.control.audit import AuditEntry, AuditTrail
from serving.control.freezes import Frozen
from serving.control.queries.runs import Question
from serving.control.queries.views import HistoryEvent
from serving.ledger.rows import ObservationRow
from serving.types import ALL_STABLE
from serving.web import charts
from serving.web.access import Right
from serving.web.rendering import named, render, sentence, told, who
from tests.ledgers import ledger_of
from tests.unit.serving.control.queries.test_catalog import NOW, World, put_rollback, standing_model

MAY = {right.value: True for right in Right}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def fraud(world: World) -> ModelFiles:
    return standing_model(world)


def live(name: str, **values: Any) -> str:
    """The live part of a page, for somebody with every right."""
    frozen: list[Frozen] = []
    return render(
        f"live/{name}.html", base="/slipway", airflow="", may=MAY, now=NOW, freezes=frozen, **values
    )


def release_page(world: World, name: str) -> str:
    series = world.catalog.series(name)
    view = world.catalog.release(name)
    return live("release", view=view, charts=charts.all_of(series), steps=series.steps)


def words(html: str) -> str:
    """What is read, without the markup."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_a_rolled_back_release_says_first_what_took_it_out(world: World, fraud: ModelFiles) -> None:
    page = release_page(world, fraud.release(2, "rolled_back"))
    first = words(page.split("</h2>")[0])
    assert "Rolled back at 5 %: candidate failed 5 of 9 requests (56%), stable 0 of 599 (0%)" in first
    assert "All requests went back to v1." in words(page)
    assert '<li class="failed">5 %' in page
    assert "rolled back here" in page


def test_approve_is_the_primary_button_beside_the_question(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "preparing")
    run = f"manual__{fraud.at.isoformat()}"
    question = Question("release_fraud", run, "approve_1", "May fraud v2?", NOW, None, ("amina",), "b" * 24)
    world.airflow.asked = [question]
    view = world.catalog.release(name)
    asked = live("release", view=view, charts=[], steps=()).split("May fraud v2?")[1].split("</section>")[0]
    assert re.search(r'class="button primary"[^>]*data-title="Approve fraud v2"', asked)
    assert "Reject fraud v2" in asked
    card = live("overview", found=world.catalog.overview(), q="", only="").split("May fraud v2?")[1]
    assert re.search(r'class="button primary"[^>]*data-title="Approve fraud v2"', card.split("</li>")[0])


def test_specs_that_were_never_released_are_in_a_list_of_their_own(world: World, fraud: ModelFiles) -> None:
    page = live("overview", found=world.catalog.overview(), q="", only="")
    table, _, rest = page.partition('<details id="unreleased"')
    assert "/models/new" not in table
    assert "/models/new" in rest
    assert "1 model has a release spec and has never been released" in words(rest)
    assert "Register a version in MLflow" in rest
    assert " open" not in rest.split(">")[0]


def test_ids_and_the_way_an_act_came_are_not_for_readers(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "paused")
    detail = {"via": "api", "run_id": "manual__x", "leaves": "2", "account": "17", "task": "approve_1"}
    trail = AuditTrail(ledger_of(world.home), world.home.late)
    trail.append(AuditEntry(NOW, "bo", "rollback", "fraud", 1, name, f"because of {name}", detail))
    (moment, *_) = [each for each in world.catalog.release(name).moments if each.who == "bo"]
    assert moment.detail == "from v2"
    page = release_page(world, name)
    assert "via" not in words(page)
    assert f'because of <a href="/slipway/releases/{name}">fraud v2</a>' in page


def test_an_id_among_words_is_a_link_that_reads_like_a_name() -> None:
    text = "waits for my-model.b-v12-20261121T201500Z-2, <b>"
    assert named(text) == "waits for my-model.b v12, <b>"
    link = '<a href="/s/releases/my-model.b-v12-20261121T201500Z-2">my-model.b v12</a>'
    assert told(text, "/s") == f"waits for {link}, &lt;b&gt;"
    assert sentence("my-model-v2-20261121T201500Z began") == "my-model-v2-20261121T201500Z began"
    assert told("no id: fraud-v2, 2026", "/s") == "no id: fraud-v2, 2026"


def test_what_airflow_started_by_itself_is_said_in_words() -> None:
    assert who("airflow (asset_triggered)") == "Airflow, on an event"
    assert who("amina") == "amina"
    assert named("asked for by airflow (scheduled), x") == "asked for by Airflow, on schedule, x"
    assert told("by airflow (manual)", "") == "by Airflow"


def test_a_freeze_says_until_when_with_the_zone(world: World, fraud: ModelFiles) -> None:
    until = (NOW + timedelta(hours=2)).isoformat()
    trail = AuditTrail(ledger_of(world.home), world.home.late)
    trail.append(AuditEntry(NOW, "bo", "freeze", "fraud", None, None, "sale", {"via": "api", "until": until}))
    from serving.control.queries.activity import HistoryFilter

    (moment,) = world.catalog.history(HistoryFilter(action="freeze")).moments
    assert isinstance(moment, HistoryEvent)
    assert moment.detail == "until 2026-11-21 14:00 UTC"


def figures(page: str) -> dict[str, str]:
    """Each chart of a page, by its title."""
    drawn = [one.split("</figure>")[0] for one in page.split("<figure")[1:]]
    return {words(one.split('chart-title">')[1].split("</span>")[0]): one for one in drawn}


def test_the_charts_show_the_failures_and_the_moment_it_was_rolled_back(
    world: World, fraud: ModelFiles
) -> None:
    page = release_page(world, fraud.release(2, "rolled_back"))
    drawn = figures(page)
    assert list(drawn) == [
        "Failed attempts, since the start",
        "Requests per second",
        "Latency, p50 and p99",
        "Slower than 250 ms, since the start",
        "Answers of stable",
        "Answers of candidate",
    ]
    assert "candidate 56 % (5 of 9)" in words(drawn["Failed attempts, since the start"])
    assert "5xx or none 5" in words(drawn["Answers of candidate"])
    for one in drawn.values():
        assert '<path class="ended"' in one
        assert "rolled back</text>" in one
        assert ">5 %</text>" in one
        assert 'role="img" aria-label="' in one
    assert "too few" not in page


def test_the_same_is_in_a_table_step_by_step(world: World, fraud: ModelFiles) -> None:
    page = release_page(world, fraud.release(2, "rolled_back"))
    table = page.split('id="steps-in-numbers"')[1].split("</table>")[0]
    (row,) = [words(one) for one in table.split("<tr>") if ">5 %, candidate" in one]
    assert row.startswith("5 %, candidate 4 s to 12 s 9 1.1 4 0 0 5 0")


def test_what_an_older_controller_did_not_record_is_said_not_drawn_as_zero(
    world: World, fraud: ModelFiles
) -> None:
    name = fraud.release(2, "rolled_back")
    ledger = ledger_of(world.home)
    kept = ledger.find(ObservationRow, release_id=name)
    ledger.prune(NOW + timedelta(days=1))
    added = ("rejected", "raw_rejected", "latency")
    for one in kept:
        document = {key: value for key, value in one.document.items() if key not in added}
        ledger.observe(replace(one, number=0, document=document))
    drawn = figures(release_page(world, name))
    assert "not recorded" in words(drawn["Latency, p50 and p99"])
    assert "2xx and 4xx not recorded" in words(drawn["Answers of candidate (2xx and 4xx not recorded)"])
    assert "candidate 56 % (5 of 9)" in words(drawn["Failed attempts, since the start"])


def test_a_rollback_under_way_is_seen_where_the_model_is(world: World, fraud: ModelFiles) -> None:
    fraud.release(2, "promoted")
    fraud.write_route(ALL_STABLE, None, revision=40)
    request = {
        "model": "fraud",
        "at": NOW.isoformat(),
        "by": "ada",
        "reason": "users complain",
        "incident": "",
    }
    saved = {"id": "fraud-rollback-x", "wish": {**request, "run_id": "r1"}, "leaves": 2, "returns": 1}
    put_rollback(world, saved)
    world.airflow.at_work = {("model_rollback", "r1")}
    overview = world.catalog.overview(only="under_way")
    assert [row.name for row in overview.models] == ["fraud"]
    row = live("overview", found=overview, q="", only="under_way").split("<tbody>")[1]
    assert "Rollback to v1: under way Version 1 is being started" in words(row)
    found = world.catalog.releases(model="fraud")
    values = {"found": found, "returnable": [], "complaints": [], "dag_id": "release_fraud"}
    page = live("model", row=world.catalog.model("fraud"), **values)
    way = page.split('id="way-title"')[1].split("</section>")[0]
    assert "Rollback to v1: under way" in words(way)
    assert "/dags/model_rollback/runs/r1" in way
    assert "Nothing." not in words(way)
