"""The pod at half its peak, and at twice it for a minute."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.serving import load
from benchmarks.serving.arrivals import arrive
from benchmarks.serving.bundles import bundle_of
from benchmarks.serving.models import Subject, model_file, oip_body
from benchmarks.serving.open_loop import Answers, OpenLoad
from benchmarks.serving.raw import raw_rows_per_second
from benchmarks.serving.servers import Running, bare_server, pod_server

# Open loop sends one body, so sharing of identical requests is switched off: every request is computed.
_ALONE = {"stochastic": True, "max_batch_size": 8}
_CONNECTIONS = 64
# Callers at once when the peak is looked for: too few leave the pod idle, too many are refused.
_CALLERS = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class HalfLoad:
    """`limit_ms`: three times (one row's compute time plus the batching delay); `failed`: answers but 200.

    `bare_p99_ms`: of a server that does nothing but compute, asked the same in the same rounds: what the
    machine itself adds.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    bare_p99_ms: float
    limit_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Soak:
    """At twice the peak. `calm` is the pod at its peak's 80 %; high priority is one request in twenty."""

    seconds: int
    peak_per_second: float
    offered_per_second: float
    calm: Answers
    accepted: Answers
    shed: Answers | None
    high_accepted: Answers
    high_failed: int
    high_statuses: dict[int, int]
    other_failed: int
    memory_mb: tuple[float, ...]


def at_half_load(subject: Subject, *, rounds: int, seconds: float) -> HalfLoad:
    """Find the peak with a closed loop, then offer half of it in an open one. The median of the rounds."""
    one = oip_body(subject.requests()[0])
    ours, bares, failed = list[Answers](), list[Answers](), 0
    with pod_server(bundle_of(subject, **_ALONE), one) as pod, bare_server(one, model_file(subject)) as bare:
        peak, body = _peak(pod, subject)
        half = {"per_second": peak / 2, "seconds": seconds, "connections": _CONNECTIONS}
        for number in range(rounds):
            answers, refused = arrive(pod.url, body, seed=number, **half)
            ours.append(answers)
            bares.append(arrive(bare.url, body, seed=number, **half)[0])
            failed += refused
    compute_ms = 1000 / raw_rows_per_second(subject, 1, 0.5)
    return HalfLoad(
        per_second=peak / 2,
        p50_ms=median(a.p50_ms for a in ours),
        p99_ms=median(a.p99_ms for a in ours),
        bare_p99_ms=median(a.p99_ms for a in bares),
        limit_ms=3 * (compute_ms + 2.0),
        failed=failed,
    )


def soak(subject: Subject, *, seconds: int) -> Soak:
    """Offer twice the peak, a twentieth of it with high priority, and watch."""
    with pod_server(bundle_of(subject, **_ALONE), oip_body(subject.requests()[0])) as pod:
        peak, body = _peak(pod, subject)
        calm = OpenLoad(pod.url, body, per_second=0.8 * peak, seconds=5, connections=_CONNECTIONS).finish()
        low = {"seconds": seconds, "connections": _CONNECTIONS}
        most = OpenLoad(pod.url, body, per_second=1.9 * peak, headers=["x-slipway-priority: low"], **low)
        high = OpenLoad(
            pod.url,
            body,
            per_second=0.1 * peak,
            seconds=seconds,
            connections=8,
            headers=["x-slipway-priority: high"],
        )
        memory = _watch_memory(pod, seconds)
        low_answers, high_answers = most.finish(), high.finish()
    return Soak(
        seconds=seconds,
        peak_per_second=peak,
        offered_per_second=most.per_second + high.per_second,
        calm=calm[200],
        accepted=low_answers[200],
        shed=low_answers.get(503),
        high_accepted=high_answers[200],
        high_failed=sum(a.count for status, a in high_answers.items() if status != 200),
        high_statuses={status: a.count for status, a in high_answers.items()},
        other_failed=sum(a.count for status, a in low_answers.items() if status not in (200, 503)),
        memory_mb=memory,
    )


def _peak(pod: Running, subject: Subject) -> tuple[float, Path]:
    work = Path(tempfile.mkdtemp(prefix="bench-peak-"))
    bodies = [oip_body(request) for request in subject.requests()]
    script, body = work / "peak.lua", work / "body.json"
    load.write_script(script, bodies, {"Content-Type": "application/json"})
    body.write_bytes(bodies[0])
    load.wrk(pod.url, script, seconds=1)
    return max(load.wrk(pod.url, script, seconds=2, connections=n).per_second for n in _CALLERS), body


def _watch_memory(pod: Running, seconds: int) -> tuple[float, ...]:
    found = []
    for _ in range(6):
        time.sleep(seconds / 6)
        found.append(round(pod.memory_mb(), 1))
    return tuple(found)
