"""What callers of few rows notice of those who ask for too many: a real pod, also behind a real Envoy.

    python -m benchmarks.oversized [--rounds 5] [--seconds 2] [--streams 1] [--rows 600000]

In each round the small callers are alone first, and then beside a stream of large requests, the next sent
as soon as the last is answered: of `--rows` rows, and of as many as the pod allows. Last comes a line of
JSON: for each kind the median over the rounds of (p99 beside the stream / p99 alone), and the stream's
statuses. Exits with 1 if that is over 2 for rows that are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.serving.servers import pod_server
from benchmarks.traffic.stack import gateway_and_controller, wait_until
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import make_bundle, mlp

_MODEL, _COLUMNS = "m", 10
_PER_SECOND, _CALLERS = 100, 8
_LIMIT = 2.0
# Rows for a pod that refuses none: to see what it was like before.
_OTHERWISE = 5000


@dataclass(frozen=True, slots=True)
class Kind:
    """Large requests of one kind. `rows` 0: as many as are allowed."""

    name: str
    rows: int
    as_json: bool

    @property
    def is_refused(self) -> bool:
        return self.rows > 0


@dataclass(slots=True)
class Found:
    """Of one kind at one door, over the rounds. Times in milliseconds."""

    alone: list[float]
    beside: list[float]
    statuses: Counter[int]

    @property
    def ratio(self) -> float:
        return median(b / a for a, b in zip(self.alone, self.beside, strict=True))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oversized", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rows", type=int, default=600_000)
    options = parser.parse_args(arguments)
    kinds = [Kind(f"{options.rows:,} rows, {how}", options.rows, how == "JSON") for how in ("JSON", "binary")]
    kinds += [Kind("allowed, JSON", 0, True), Kind("allowed, binary", 0, False)]
    with doors() as urls:
        most = allowed_rows(urls["pod"], options.rows)
        found = {
            (door, kind): measure(url, kind, most, options) for door, url in urls.items() for kind in kinds
        }
    report(found)
    return int(any(one.ratio > _LIMIT for (_, kind), one in found.items() if kind.is_refused))


@contextmanager
def doors() -> Iterator[dict[str, str]]:
    """The infer URLs of a pod, and of the gateway in front of it."""
    warm = {"input": np.random.default_rng(1).standard_normal((32, _COLUMNS)).astype(np.float32)}
    serving = {"stochastic": True, "timeout_ms": 1000}
    with tempfile.TemporaryDirectory(prefix="bench-oversized-") as folder:
        model = mlp((_COLUMNS, 256, 256, 2))
        bundle = make_bundle(Path(folder), model, name=_MODEL, serving=serving, warmup=warm)
        with (
            pod_server(bundle, body(1, as_json=True)[0]) as pod,
            gateway_and_controller(controller=False) as home,
        ):
            port = urlsplit(pod.url).port
            assert port is not None
            stable = Deployment(DeploymentRef(_MODEL, Slot.BLUE, "b1", 1), (Endpoint("127.0.0.1", port),))
            EnvoyFileRouter(home).write(
                _MODEL, TrafficSplit(100, 0), stable=stable, candidate=None, at=0, settings=RouteSettings()
            )
            through = f"{home.gateway_url}/v2/models/{_MODEL}/infer"
            wait_until(lambda: ask_once(through) == 200)
            yield {"pod": pod.url, "Envoy": through}


def allowed_rows(url: str, rows: int) -> tuple[int, int]:
    """What the pod allows as JSON and binary: its refusal says so."""
    found = []
    for as_json in (True, False):
        content, headers = body(rows, as_json=as_json)
        answer = httpx.post(url, content=content, headers=headers, timeout=200)
        said = re.search(r"at most (\d+) rows", answer.text[:1000])
        found.append(int(said[1]) if said else _OTHERWISE)
    return found[0], found[1]


def measure(url: str, kind: Kind, most: tuple[int, int], options: argparse.Namespace) -> Found:
    found = Found([], [], Counter())
    rows = kind.rows or (most[0] if kind.as_json else most[1])
    content, headers = body(rows, as_json=kind.as_json)
    for _ in range(options.rounds):
        found.alone.append(asyncio.run(p99_ms(url, options.seconds)))
        with streaming(url, content, headers, options.streams) as statuses:
            found.beside.append(asyncio.run(p99_ms(url, options.seconds)))
        found.statuses += statuses
    return found


def body(rows: int, *, as_json: bool) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "input", "shape": [rows, _COLUMNS], "datatype": "FP32"}
    values = np.random.default_rng(rows).integers(0, 10, (rows, _COLUMNS)).astype(np.float32)
    if as_json:
        data = values.astype(int).ravel().tolist()
        return json.dumps({"inputs": [{**tensor, "data": data}]}, separators=(",", ":")).encode(), {}
    raw = values.tobytes()
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


def ask_once(url: str) -> int:
    return httpx.post(url, content=body(1, as_json=True)[0]).status_code


# The small callers


async def p99_ms(url: str, seconds: float) -> float:
    """Of one-row requests that are due at even times, whatever became of the ones before."""
    request = _request(url, body(1, as_json=True)[0], {})
    times: list[float] = []
    began = time.perf_counter()
    callers = [_caller(url, request, began, number, seconds, times) for number in range(_CALLERS)]
    await asyncio.gather(*callers)
    return float(np.quantile(times, 0.99))


async def _caller(
    url: str, request: bytes, began: float, number: int, seconds: float, times: list[float]
) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    every = _CALLERS / _PER_SECOND
    due = began + number / _PER_SECOND
    while due < began + seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head))
        if head.startswith(b"HTTP/1.1 200 "):
            times.append((time.perf_counter() - due) * 1000)
        due += every
    writer.close()


# The large ones


@contextmanager
def streaming(url: str, content: bytes, headers: dict[str, str], streams: int) -> Iterator[Counter[int]]:
    """Large requests one after the other, until the block ends; then their statuses are known."""
    statuses: Counter[int] = Counter()
    context = multiprocessing.get_context("fork")
    pairs = [context.Pipe() for _ in range(streams)]
    request = _request(url, content, headers)
    senders = [context.Process(target=_send, args=(url, request, theirs)) for _, theirs in pairs]
    for sender in senders:
        sender.start()
    for ours, _ in pairs:
        ours.recv()
    try:
        yield statuses
    finally:
        for ours, _ in pairs:
            ours.send("end")
            statuses.update(ours.recv())
        for sender in senders:
            sender.join()


def _send(url: str, request: bytes, told: Connection) -> None:
    parts, statuses = urlsplit(url), Counter[int]()
    assert parts.hostname is not None
    assert parts.port is not None
    while not told.poll():
        # Each on its own connection, as from many callers.
        with socket.create_connection((parts.hostname, parts.port)) as one, one.makefile("rb") as answers:
            with suppress(OSError):  # refused before all was sent; the answer is there all the same
                one.sendall(request)
            try:
                head = b"".join(iter(answers.readline, b"\r\n"))
                statuses[int(head.split()[1])] += 1
                answers.read(_length(head))
            except (OSError, IndexError):
                statuses[0] += 1
        if sum(statuses.values()) == 1:
            told.send("the first is answered")
    told.recv()
    told.send(statuses)


def _request(url: str, content: bytes, headers: dict[str, str]) -> bytes:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _length(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def report(found: dict[tuple[str, Kind], Found]) -> None:
    print(f"{'door':6} {'large requests':24} {'alone p99':>9} {'beside':>8} {'ratio':>6}  statuses")
    for (door, kind), one in found.items():
        times = f"{median(one.alone):9.2f} {median(one.beside):8.2f} {one.ratio:6.2f}"
        print(f"{door:6} {kind.name:24} {times}  {dict(one.statuses)}")
    print(
        json.dumps(
            {
                f"{door}: {kind.name}": {"ratio": round(one.ratio, 2), "statuses": one.statuses}
                for (door, kind), one in found.items()
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
