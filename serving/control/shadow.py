"""Do both versions answer recorded requests alike? Asked beside the traffic, so that no user waits for it.

The pods' request log (`serving.pod.recording`) holds a sample of what was really asked. While a release
is on its way and its spec sets `max_disagreement`, the controller has each recorded request answered by
stable and by the candidate, and counts how often they differ; the judge's rule on disagreement does the rest.
The pods are asked directly and at low priority: none of it is in Envoy's counters, and live requests go
first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson

from serving.control.rollout.plan import RolloutState
from serving.types import REFUSED_HEADER, Endpoint, Route

log = logging.getLogger("slipway.shadow")

REQUESTS_PER_SECOND = 20.0
READ_AGAIN_SECONDS = 5.0
MOST_COMPARED = 5000
# Numbers that are no scores differ when they are further apart than this share of the larger one.
RELATIVE_DIFFERENCE = 0.05
_EXACT = ("BOOL", "INT", "UINT", "BYTES")
_HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of the log: per input name, datatype, shape, and its bytes as in the binary extension."""

    identity: str
    inputs: tuple[tuple[str, str, tuple[int, ...], bytes], ...]

    def body(self) -> tuple[bytes, int]:
        """The request's body, and how much of it is JSON."""
        described = [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, kind, shape, data in self.inputs
        ]
        head = orjson.dumps({"inputs": described})
        return b"".join([head, *(data for *_, data in self.inputs)]), len(head)


def recorded(path: Path, tensors: Mapping[str, str]) -> list[Recorded] | None:
    """The requests in one file of a model's log that were answered well; None when it cannot be read.

    `tensors` are the model's inputs with their datatypes. Requests for other inputs are left out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["identity", "code", *(f"{kind}:{name}" for name in tensors for kind in ("in", "shape"))]
    try:
        rows = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException):
        return None
    return [
        Recorded(row["identity"], tuple(_input(row, *tensor) for tensor in tensors.items()))
        for row in rows
        if row.get("code") == httpx.codes.OK and row.keys() >= set(columns)
    ]


def _input(row: Mapping[str, Any], name: str, kind: str) -> tuple[str, str, tuple[int, ...], bytes]:
    return name, kind, tuple(int(size) for size in row[f"shape:{name}"].split(",")), row[f"in:{name}"]


def agree(stable: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two answers (`outputs` of the Open Inference Protocol) say the same to whoever acts on them.

    Outputs of whole numbers, booleans or text (a label) must be equal, and then scores may move. Where there
    are none, the highest of several scores must be the same one, and single numbers nearly equal.
    """
    ours, theirs = ({output["name"]: output for output in outputs} for outputs in (stable, candidate))
    if ours.keys() != theirs.keys():
        return False
    exact = [name for name, output in ours.items() if output["datatype"].startswith(_EXACT)]
    return all(_alike(ours[name], theirs[name]) for name in exact or ours)


def _alike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    if list(ours["shape"]) != list(theirs["shape"]):
        return False
    if ours["datatype"].startswith(_EXACT):
        return bool(ours["data"] == theirs["data"])
    first, second = (np.asarray(each["data"], dtype=float).reshape(each["shape"]) for each in (ours, theirs))
    if first.ndim > 1 and first.shape[-1] > 1:
        return bool((first.argmax(axis=-1) == second.argmax(axis=-1)).all())
    largest = np.maximum(np.abs(first), np.abs(second))
    return bool((np.abs(first - second) <= RELATIVE_DIFFERENCE * largest).all())


class PodPair:
    """One pod of each arm of a model, asked over HTTP."""

    def __init__(self, client: httpx.Client, model: str, stable: Endpoint, candidate: Endpoint) -> None:
        self._client, self._model = client, model
        self._arms = (stable, candidate)

    def tensors(self) -> dict[str, str]:
        """The inputs of stable with their datatypes. Raises httpx.HTTPError where it does not answer."""
        answer = self._client.get(f"http://{self._arms[0]}/v2/models/{self._model}").raise_for_status()
        return {tensor["name"]: tensor["datatype"] for tensor in answer.json()["inputs"]}

    def agree_on(self, request: Recorded) -> bool | None:
        """Whether the candidate answers as stable does; it does not where its model refuses the request.

        None if one of them gave no answer of its own: failures are counted where users meet them.
        """
        (ours, _), (theirs, refused) = (self._ask(endpoint, request) for endpoint in self._arms)
        if ours and refused:
            return False
        return agree(ours, theirs) if ours and theirs else None

    def _ask(self, endpoint: Endpoint, request: Recorded) -> tuple[list[dict[str, Any]], bool]:
        """The outputs, empty without an answer, and whether the model refused."""
        body, head = request.body()
        answer = self._client.post(
            f"http://{endpoint}/v2/models/{self._model}/infer",
            content=body,
            headers={_HEADER_LENGTH: str(head), "x-slipway-priority": "low"},
        )
        if answer.status_code != httpx.codes.OK or "x-slipway-fallback" in answer.headers:
            return [], REFUSED_HEADER in answer.headers
        return answer.json()["outputs"], False


class AnswerComparison:
    """Compares one release's answers on a thread of its own until it is told to end.

    `skipped` requests from the start of the log were compared by a controller before: the same request
    again would be no new evidence.
    """

    def __init__(
        self, folder: Path, route: Route, skipped: int = 0, *, per_second: float = REQUESTS_PER_SECOND
    ) -> None:
        assert route.stable
        assert route.candidate
        self.deployments = (route.stable.id, route.candidate.id)
        self._folder, self._pause = folder / route.service, 1 / per_second
        self._arms = (route.service, route.stable.endpoints[0], route.candidate.endpoints[0])
        self._timeout_seconds = route.settings.timeout_ms / 1000
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._new = (0, 0)
        self._done: set[str] = set()
        self._finished: set[str] = set()
        self._skipped = skipped
        threading.Thread(target=self._run, daemon=True, name=f"shadow-{route.service}").start()

    def take(self) -> tuple[int, int]:
        """(compared, disagreed) since this was last asked."""
        with self._lock:
            new, self._new = self._new, (0, 0)
            return new

    def end(self) -> None:
        self._ending.set()

    def _run(self) -> None:
        with httpx.Client(timeout=self._timeout_seconds, trust_env=False) as client:
            pods = PodPair(client, *self._arms)
            while not self._ending.is_set() and len(self._done) < MOST_COMPARED:
                try:
                    self._compare_all(pods)
                except (httpx.HTTPError, OSError, KeyError, ValueError) as problem:
                    log.info("%s: answers cannot be compared now: %r", self._arms[0], problem)
                self._ending.wait(READ_AGAIN_SECONDS)

    def _compare_all(self, pods: PodPair) -> None:
        """The oldest files first. A file of which nothing is left is not read again: logs are large."""
        every = sorted(self._folder.glob("*.parquet"), key=lambda path: path.name.partition("-")[2])
        fresh = [path for path in every if path.name not in self._finished]
        tensors = pods.tensors() if fresh else {}
        for path in fresh:
            if self._ending.is_set() or len(self._done) >= MOST_COMPARED:
                return
            requests = recorded(path, tensors)
            if requests is not None and self._compare(pods, requests):
                self._finished.add(path.name)

    def _compare(self, pods: PodPair, requests: Sequence[Recorded]) -> bool:
        """Whether nothing of it is left: what a pod gave no answer to, it may answer later."""
        is_complete = True
        for request in requests:
            if request.identity in self._done:
                continue
            if len(self._done) < self._skipped:
                self._done.add(request.identity)
                continue
            if self._ending.wait(self._pause) or len(self._done) >= MOST_COMPARED:
                return False
            if (same := pods.agree_on(request)) is None:
                is_complete = False
                continue
            self._done.add(request.identity)
            with self._lock:
                self._new = (self._new[0] + 1, self._new[1] + (not same))
        return is_complete


class Shadow:
    """The comparisons of all releases under way, for the controller. `folder` is the pods' request log."""

    def __init__(
        self, folder: Path, start: Callable[[Path, Route, int], AnswerComparison] = AnswerComparison
    ) -> None:
        self._folder, self._start = folder, start
        self._running: dict[str, AnswerComparison] = {}

    def take(self, state: RolloutState, route: Route, compared: int) -> tuple[int, int]:
        """(compared, disagreed) since the last look; begins to compare where the spec asks for it.

        `compared` requests were so far, by whichever controller.
        """
        if state.plan.policy.max_disagreement is None or not route.stable or not route.candidate:
            return 0, 0
        running = self._running.get(state.release_id)
        if running is None or running.deployments != (route.stable.id, route.candidate.id):
            self.end(state.release_id)
            running = self._running[state.release_id] = self._start(self._folder, route, compared)
        return running.take()

    def end(self, release_id: str) -> None:
        """The release is over, or its pods are others now."""
        if running := self._running.pop(release_id, None):
            running.end()
