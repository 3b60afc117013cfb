"""Every server on every model: same load, same settings, in turn, several rounds."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.serving import load
from benchmarks.serving.bundles import bundle_of
from benchmarks.serving.load import Load
from benchmarks.serving.models import Subject, model_file, oip_body
from benchmarks.serving.raw import raw_rows_per_second
from benchmarks.serving.servers import PEERS, Running, peer_server, pod_server


@dataclass(slots=True)
class Score:
    """One server's rounds on one model. `cpu` is seconds per 1,000 requests, over all its processes."""

    server: str
    loads: list[Load] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory_mb: float = 0.0

    @property
    def per_second(self) -> float:
        return median(one.per_second for one in self.loads)

    @property
    def p50_ms(self) -> float:
        return median(one.p50_ms for one in self.loads)

    @property
    def p99_ms(self) -> float:
        return median(one.p99_ms for one in self.loads)

    @property
    def cpu_per_thousand(self) -> float:
        return median(self.cpu)

    @property
    def failed(self) -> int:
        return sum(one.failed for one in self.loads)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model: all servers' scores (ours first) and the raw engine's rows/s, from between the rounds."""

    subject: str
    scores: list[Score]
    raw_one: float
    raw_batch: float


def compare(subject: Subject, peers: list[str], *, rounds: int, seconds: float) -> Comparison:
    """Start all servers, then load them one after the other, `rounds` times."""
    requests = subject.requests()
    work = Path(tempfile.mkdtemp(prefix="bench-load-"))
    with ExitStack() as stack:
        contestants: list[tuple[Running, Path]] = []
        bodies = [oip_body(request) for request in requests]
        pod = stack.enter_context(pod_server(bundle_of(subject), bodies[0]))
        contestants.append((pod, script_of(work, "slipway", bodies)))
        for name in peers:
            bodies = [PEERS[name].body(request) for request in requests]
            running = stack.enter_context(peer_server(PEERS[name], model_file(subject), bodies[0]))
            contestants.append((running, script_of(work, name, bodies)))
        scores = [Score(running.name) for running, _ in contestants]
        raws: list[tuple[float, float]] = []
        for number in range(rounds + 1):
            warm_only = number == 0
            for score, (running, script) in zip(scores, contestants, strict=True):
                take_turn(score, running, script, 1.0 if warm_only else seconds, counts=not warm_only)
            raws.append((raw_rows_per_second(subject, 1, 0.5), raw_rows_per_second(subject, 32, 0.5)))
    return Comparison(subject.name, scores, median(one for one, _ in raws), median(many for _, many in raws))


def take_turn(score: Score, running: Running, script: Path, seconds: float, *, counts: bool) -> None:
    """Load it for so long; `counts`: into its score."""
    before = running.cpu_seconds()
    found = load.wrk(running.url, script, seconds=seconds)
    if counts:
        score.loads.append(found)
        score.cpu.append((running.cpu_seconds() - before) / max(found.requests, 1) * 1000)
        score.memory_mb = running.memory_mb()


def script_of(work: Path, name: str, bodies: list[bytes]) -> Path:
    """A script for wrk that sends these bodies as JSON."""
    path = work / f"{name}.lua"
    load.write_script(path, bodies, {"Content-Type": "application/json"})
    return path
