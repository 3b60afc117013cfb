"""Asks new pods what real rows get, over HTTP as a caller does, before any traffic.

The pod has run its kernels on the bundle's warm rows before it calls itself ready (`serving.pod.warmup`).
What that leaves cold is the way there: connections, parsing, the first batches of one. And a pod that cannot
answer its own warm rows must be found by us, not by the first 1 % of users.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from model_store.errors import Permanent, Retryable
from serving.pod.warm_rows import requests
from serving.types import Deployment, Endpoint


class FailedWarmup(Permanent):
    """A pod answered a warm row with an error: it would do the same to users."""


@dataclass(frozen=True, slots=True)
class Warmup:
    """Of all endpoints together: `first_ms` is the slowest first answer, `last_ms` the slowest last one."""

    requests: int
    first_ms: float
    last_ms: float


def warm_up(
    bundle: Path,
    deployment: Deployment,
    *,
    timeout_seconds: float = 10.0,
) -> Warmup:
    """Send the warm rows of the bundle at `bundle` to every endpoint of `deployment`, one row a request.

    Raises `FailedWarmup` for an answer that is no 200, `Retryable` where nobody answers. Safe to repeat.
    """
    manifest = orjson.loads((bundle / "manifest.json").read_bytes())
    bodies = list(requests(bundle, manifest))
    path = f"/v2/models/{manifest['model']['name']}/infer"
    times = [_ask_all(endpoint, path, bodies, timeout_seconds) for endpoint in deployment.endpoints]
    asked = [each for each in times if each]
    return Warmup(
        requests=sum(map(len, asked)),
        first_ms=max((each[0] for each in asked), default=0.0),
        last_ms=max((each[-1] for each in asked), default=0.0),
    )


def _ask_all(endpoint: Endpoint, path: str, bodies: list[bytes], timeout_seconds: float) -> list[float]:
    """Milliseconds of each answer."""
    base, own = f"http://{endpoint}", {"x-slipway-warmup": "1"}
    with httpx.Client(base_url=base, headers=own, timeout=timeout_seconds, trust_env=False) as client:
        return [_ask(client, endpoint, path, body) for body in bodies]


def _ask(client: httpx.Client, endpoint: Endpoint, path: str, body: bytes) -> float:
    began = time.perf_counter()
    try:
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
    except httpx.TransportError as problem:
        raise Retryable(
            f"the new pod at {endpoint} did not answer a warm row: {problem!r}",
            remedy="look into the pod's log; it may still be starting",
        ) from problem
    if answer.status_code != 200:
        raise FailedWarmup(
            f"the new pod at {endpoint} answered a warm row with {answer.status_code}: {answer.text[:200]}",
            remedy="look into the pod's log; the version cannot serve the rows it was gated on",
        )
    return (time.perf_counter() - began) * 1000
