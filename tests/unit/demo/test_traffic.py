"""The demo's users: every request is accounted for, and every way to fail is called by its name."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from demo.data import FEATURES, Parts
from demo.models import MODEL
from demo.place import DemoHome
from demo.traffic import Application, applications, label_in, send_until
from demo.traffic_log import Entry, TrafficLog

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ROW = Application(b'{"inputs": []}', label=1)


def answer(label: object = 1, probabilities: object = (0.2, 0.8), shape: tuple[int, ...] = (1,)) -> bytes:
    outputs = [
        {"name": "label", "datatype": "INT64", "shape": list(shape), "data": [label]},
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": probabilities},
    ]
    return json.dumps({"model_name": MODEL, "outputs": outputs}).encode()


def respond(body: bytes, *, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"x-slipway-version": "7"})

    return handler


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def entries_from(url: str, *, seconds: float = 0.1, rate: float = 100) -> tuple[int, list[Entry]]:
    log, stop = io.StringIO(), asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    sent = await send_until(stop, url, [ROW], log, rate=rate)
    return sent, [Entry.of(line) for line in log.getvalue().splitlines()]


async def outcomes_of(handler: Handler) -> set[str]:
    async with serving(handler) as url:
        _, entries = await entries_from(url)
    return {entry.outcome for entry in entries}


async def test_a_good_answer_is_ok_with_its_version_and_whether_it_was_right() -> None:
    async with serving(respond(answer(label=1))) as url:
        _, entries = await entries_from(url)
    assert {(entry.outcome, entry.version, entry.correct) for entry in entries} == {("ok", 7, True)}


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (respond(b"", status=503), "status 503"),
        (respond(answer(), status=404), "status 404"),
        (respond(b"<html>"), "unparsable"),
        (respond(b"[]"), "unparsable"),
        (respond(b'{"outputs": 3}'), "unparsable"),
        (respond(b'{"outputs": []}'), "wrong shape"),
        (respond(answer(shape=(1, 1))), "wrong shape"),
        (respond(answer(label=2)), "wrong shape"),
        (respond(answer(probabilities=[0.2])), "wrong shape"),
        (respond(answer(probabilities=[0.2, 0.2])), "wrong shape"),
        (respond(answer(probabilities=[float("nan"), 0.8])), "unparsable"),
        (respond(answer(probabilities=[None, 0.8])), "wrong shape"),
        (respond(answer(probabilities=[-0.2, 1.2])), "wrong shape"),
    ],
)
async def test_a_bad_answer_is_called_what_it_is(handler: Handler, outcome: str) -> None:
    assert await outcomes_of(handler) == {outcome}


async def test_a_closed_port_is_a_connect_failure() -> None:
    async with serving(respond(answer())) as url:
        pass
    _, entries = await entries_from(url)
    assert {entry.outcome for entry in entries} == {"connect"}


async def test_a_connection_dropped_mid_answer_is_broken() -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    assert await outcomes_of(drop) == {"broken"}


async def test_a_service_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.traffic.TIMEOUT_SECONDS", 0.2)

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.Response()

    assert await outcomes_of(hang) == {"timeout"}


async def test_every_request_sent_is_in_the_log_even_when_stopped_mid_flight() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response(body=answer())

    async with serving(slow) as url:
        sent, entries = await entries_from(url, seconds=0.2)
    assert sent == len(entries) > 1
    assert Counter(entry.outcome for entry in entries) == {"ok": sent}


async def test_a_slow_service_meets_the_same_rate() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response(body=answer())

    async with serving(slow) as url:
        sent, _ = await entries_from(url, seconds=0.5, rate=60)
    assert 20 <= sent <= 32


def test_every_held_out_row_becomes_a_request_of_all_features(home: DemoHome) -> None:
    rows = applications(Parts.under(home.data / MODEL).traffic)
    (tensor,) = json.loads(rows[0].body)["inputs"]
    assert len(rows) == 334
    assert (tensor["name"], tensor["shape"], len(tensor["data"])) == ("input", [1, 29], len(FEATURES))


def test_quantized_probabilities_that_miss_one_by_a_step_are_fine() -> None:
    assert label_in(answer(label=0, probabilities=[0.5, 0.505])) == 0


def test_the_process_ends_on_sigterm_with_everything_accounted_for(home: DemoHome, tmp_path: Path) -> None:
    log = tmp_path / "traffic.csv"
    places = ["--gateway", home.gateway_url, "--data", str(home.data)]
    command = [sys.executable, "-m", "demo.traffic", *places, "--log", str(log), "--rate", "50"]
    # Nobody listens on the gateway's port: every request fails, and none may go missing.
    process = subprocess.Popen(command, env=os.environ | {"SLIPWAY_HOME": str(home.root)})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 7):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    read = TrafficLog.read(log)
    assert read.sent == len(read.entries) == len(read.failed) > 5
