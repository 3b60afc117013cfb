"""The users of the demo: held-out rows, sent through Envoy one by one at a steady rate until told to stop.

Run as a process (`python -m demo.traffic`); SIGTERM ends it after the last answer. Every request sent becomes
one line of the log, whatever came of it. The rate does not bend to the answers (an open loop):
a slow service meets more waiting requests, as it would with real users. Nothing is retried here, so what the
log calls failed, a user would have seen fail.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
import orjson
import pandas as pd

from demo.acts import RISK, scenario
from demo.data import FEATURES, LABEL, Parts
from demo.traffic_log import HEADER, Entry

RATE_PER_SECOND = RISK.rate
TIMEOUT_SECONDS = 5.0
# INT8 outputs are steps of 1/255: two of them need not sum to 1 exactly.
SUM_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Application:
    """One held-out row as a ready request body, and its label (0 or 1)."""

    body: bytes
    label: int


def applications(traffic: Path) -> list[Application]:
    """Every loan application of the traffic part as a request for one row."""
    table = pd.read_parquet(traffic)
    rows, labels = table[list(FEATURES)].to_numpy().tolist(), table[LABEL].tolist()
    return [
        Application(request(("input", "FP32", row)), label) for row, label in zip(rows, labels, strict=True)
    ]


def mails(traffic: Path) -> list[Application]:
    """Every mail of the traffic part, as token ids."""
    from demo.service.mails import LABEL as SPAM

    table = pd.read_parquet(traffic)
    columns = (table["input_ids"], table["attention_mask"], table[SPAM])
    return [
        Application(_tokens(ids.tolist(), mask.tolist()), label)
        for ids, mask, label in zip(*columns, strict=True)
    ]


def _tokens(ids: list[int], mask: list[int]) -> bytes:
    return request(("input_ids", "INT64", ids), ("attention_mask", "INT64", mask))


def ratings(traffic: Path) -> list[Application]:
    """Every person and film of the traffic part."""
    from demo.recsys.ratings import FIELDS
    from demo.recsys.ratings import LABEL as LIKED

    table = pd.read_parquet(traffic)
    columns = (table[list(FIELDS)].to_numpy().tolist(), table["genres"], table[LIKED])
    return [
        Application(request(("ids", "INT64", ids), ("genres", "FP32", genres.tolist())), label)
        for ids, genres, label in zip(*columns, strict=True)
    ]


READERS: dict[str, Callable[[Path], list[Application]]] = {
    "risk": applications,
    "service": mails,
    "recsys": ratings,
}


def request(*tensors: tuple[str, str, Sequence[float]]) -> bytes:
    """An Open Inference Protocol v2 request for one row: name, datatype and values of each input."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1, len(values)], "data": values}
        for name, datatype, values in tensors
    ]
    return orjson.dumps({"inputs": inputs})


def label_in(answer: bytes) -> int:
    """The label (0 or 1) of a one-row answer. Raises `ValueError` naming what is wrong with it.

    `unparsable` is no JSON object at all; `wrong shape` lacks an output, or has one of another shape or with
    values no probability or label can have.
    """
    try:
        outputs = {output["name"]: output for output in orjson.loads(answer)["outputs"]}
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError("unparsable") from error
    label, probabilities = outputs.get("label", {}), outputs.get("probabilities", {})
    if label.get("shape") != [1] or label.get("data") not in ([0], [1]):
        raise ValueError("wrong shape")
    if probabilities.get("shape") != [1, 2] or not _are_probabilities(probabilities.get("data")):
        raise ValueError("wrong shape")
    return int(label["data"][0])


def _are_probabilities(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 2
        and all(isinstance(value, float | int) and 0 <= value <= 1 for value in values)
        and math.isclose(sum(values), 1, abs_tol=SUM_TOLERANCE)
    )


async def ask(session: aiohttp.ClientSession, url: str, application: Application) -> Entry:
    """Send one request and say what came of it. Never raises for what the service does."""
    sent_at, started = time.time(), time.perf_counter()
    outcome, version, correct = "", 0, False
    try:
        async with session.post(url, data=application.body) as response:
            answer = await response.read()
            version = int(response.headers.get("x-slipway-version", 0))
            if response.status == 200:
                correct = label_in(answer) == application.label
                outcome = "ok"
            else:
                outcome = f"status {response.status}"
    except ValueError as error:
        outcome = str(error)
    except TimeoutError:
        outcome = "timeout"
    except aiohttp.ClientConnectorError:
        outcome = "connect"
    except aiohttp.ClientError:
        outcome = "broken"
    return Entry(sent_at, (time.perf_counter() - started) * 1000, outcome, version, correct)


async def send_until(
    stop: asyncio.Event, url: str, rows: Sequence[Application], log: IO[str], *, rate: float = RATE_PER_SECOND
) -> int:
    """Send `rate` requests a second, in turn over the rows, until `stop`; return how many were sent.

    Returns only after every answer (or its failure) is in the log.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    headers = {"content-type": "application/json"}
    in_flight: set[asyncio.Task[None]] = set()
    sent, began = 0, time.perf_counter()
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=_connector()) as session:

        async def one(application: Application) -> None:
            log.write((await ask(session, url, application)).line())

        while not stop.is_set():
            task = asyncio.create_task(one(rows[sent % len(rows)]))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
            sent += 1
            await asyncio.sleep(max(0.0, began + sent / rate - time.perf_counter()))
        await asyncio.gather(*in_flight)
    return sent


def _connector() -> aiohttp.TCPConnector:
    # No limit: a request must never wait for a connection inside the client and be called slow.
    return aiohttp.TCPConnector(limit=0)


async def _run(url: str, rows: Sequence[Application], log: IO[str], rate: float) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await send_until(stop, url, rows, log, rate=rate)


def main(arguments: list[str] | None = None) -> None:
    """Send until SIGTERM; the log's last line says how many requests were sent."""
    parser = argparse.ArgumentParser(prog="python -m demo.traffic", description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--gateway", required=True, help="its URL")
    parser.add_argument("--data", type=Path, required=True, help="the folder with a folder for each model")
    parser.add_argument("--scenario", choices=sorted(READERS), default="risk")
    parser.add_argument("--rate", type=float, default=RATE_PER_SECOND, help="requests a second")
    asked = parser.parse_args(arguments)
    model = scenario(asked.scenario).model
    rows = READERS[asked.scenario](Parts.under(asked.data / model).traffic)
    url = f"{asked.gateway}/v2/models/{model}/infer"
    # Line by line, so that the demo can show progress and a kill loses nothing already answered.
    with asked.log.open("w", buffering=1) as log:
        log.write(HEADER)
        sent = asyncio.run(_run(url, rows, log, asked.rate))
        log.write(f"# sent {sent}\n")


if __name__ == "__main__":
    main()
