"""`python -m benchmarks.gpu.release [tensorrt]`: releases with pods on this GPU, from model file to traffic.

Everything that stands between a registered version and its callers, as the local stack runs it, but for
Airflow, whose tasks call what this calls, and MLflow, whose place folders take: the stages of the build, the
controller, supervisord with the pods, Envoy. Callers ask 300 times a second without pause while

1. a classifier of digits is released,
2. one that was trained on noise is stopped by its gates,
3. one passes them and is worse: of rows that its evaluation data has none like, it makes NaN. It gets half of
   the requests and is taken out again;
4. a good one gets half, then all.

Counted: requests and failures that callers saw, seconds, and the GPU's memory. Last a JSON line; exits 1
unless all went like that and no caller saw a failure. Needs requirements.txt with onnxruntime-gpu; no
network.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import onnx
from onnx import helper

from benchmarks.gpu.digits import digits, saved, trained, write_data
from benchmarks.traffic.load import Result, load
from benchmarks.traffic.stack import gateway_and_controller
from model_store.build import variants
from model_store.check import FolderVersions
from model_store.engines import nvml
from model_store.errors import Permanent, Retryable
from model_store.release_spec import ReleaseSpec
from model_store.release_spec import load as load_spec
from model_store.types import ModelRef
from serving import composition
from serving.control import build_stages, finalization, release_queue
from serving.control.releases import Release, Request
from serving.control.traffic import RolloutPhase, RolloutProgress
from serving.control.wiring import Services, now
from serving.home import Home
from serving.local_stack.lifecycle import down
from serving.supervision import supervisor

MODEL = "digits"
PER_SECOND = 300
PATIENCE_SECONDS = 240
PROMOTED = (RolloutPhase.WATCHING, RolloutPhase.DONE)
# As scanners give them; the model was trained on, and is judged by, rows that were scaled.
UNSCALED = 16
SPEC = """
model: digits
task: multiclass
source: {alias: candidate, flavor: onnx}
data: {evaluation: EVALUATION, calibration: CALIBRATION, label: label}
precisions: [fp32, fp16]
targets: [RUNTIME]
serving: {runtime: RUNTIME, max_batch_size: 32, ready_timeout_seconds: 180}
rollout:
  steps: [{weight: 50, hold_seconds: 5}, {weight: 100, hold_seconds: 3}]
  watch_seconds: 0
  analysis: {min_requests: 100}
gates:
  accuracy: {max_drop: 0.01}
"""


class Registered(FolderVersions):
    """Model folders in place of MLflow, and what else a release asks of it."""

    def __init__(self, folders: dict[int, Path]) -> None:
        super().__init__(folders)
        self.tags: dict[int, dict[str, str]] = {}

    def parameters(self, ref: ModelRef) -> dict[str, str] | None:
        """None: no run trained them."""
        return None

    def set_tags(self, ref: ModelRef, tags: dict[str, str]) -> None:
        self.tags.setdefault(ref.version, {}).update(tags)

    def set_alias(self, ref: ModelRef, alias: str) -> None:
        self.serve(ref.version, self.tags[ref.version]["slipway.bundle"])


@dataclass(slots=True)
class Outcome:
    """What became of one release. `seconds`: since it was asked for, by what had happened then."""

    version: int
    phase: str = ""
    words: str = ""
    precision: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    sent: int = 0
    failed: int = 0
    slowest_ms: float = 0.0
    problems: list[str] = field(default_factory=list)
    gpu_mb: int = 0


def main(runtime: str = "onnxruntime") -> int:
    with installation() as home:
        work = home.root / "digits"
        work.mkdir()
        spec = load_spec(write_data(work, SPEC.replace("RUNTIME", runtime)))
        registered = Registered(_versions(work))
        services = replace(composition.wire(home), registry=cast(Any, registered))
        bodies = _requests()
        found = [_released(services, spec, 1, [])]
        found += [_released(services, spec, version, bodies) for version in (2, 3, 4)]
        pods = _pods(services)
    told = {"runtime": runtime, "gpu": nvml.architecture(), "pods": pods, "releases": [*map(asdict, found)]}
    print(json.dumps(told))
    ended = [each.phase for each in found]
    right = ["promoted", "blocked", "rolled_back", "promoted"]
    is_right = ended == right and not any(each.failed for each in found)
    return 0 if is_right else 1


@contextmanager
def installation() -> Iterator[Home]:
    """Envoy and the controller, and supervisord for the pods."""
    with gateway_and_controller() as home:
        for folder in (home.run, home.pods):
            folder.mkdir(exist_ok=True)
        home.config.write_text(json.dumps({"ports": asdict(home.ports)}))
        supervisor.configure(home, [])
        supervisor.start(home)
        try:
            yield home
        except BaseException:
            for log in sorted(home.logs.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
            raise
        finally:
            down(home)


def _released(services: Services, spec: ReleaseSpec, version: int, bodies: list[bytes]) -> Outcome:
    """One version, from the request to its end, while callers ask."""
    outcome = Outcome(version)
    with _callers(services.home, bodies, outcome):
        _release(services, spec, outcome)
    print(
        f"v{version} {outcome.phase} ({outcome.words[:300]}), {outcome.sent:,} requests meanwhile, "
        f"{outcome.failed} failed, slowest {outcome.slowest_ms} ms",
        flush=True,
    )
    return outcome


def _release(services: Services, spec: ReleaseSpec, outcome: Outcome) -> None:
    began = time.monotonic()

    def reached(what: str) -> None:
        outcome.seconds[what] = round(time.monotonic() - began, 1)

    try:
        release, bundle = _built(services, spec, outcome.version, reached)
    except Permanent as blocked:
        outcome.phase, outcome.words = "blocked", blocked.problem
        return
    manifest = json.loads((services.store.bundle(bundle) / "manifest.json").read_text())
    outcome.precision = manifest["precision"]
    ended = _rolled_out(services, release, bundle, reached)
    outcome.phase = "promoted" if ended.phase in PROMOTED else ended.phase.value
    outcome.words, outcome.gpu_mb = ended.words, _used_mb()
    if ended.phase in PROMOTED:
        cast(Any, services.registry).set_tags(release.ref, {"slipway.bundle": bundle})
        services.registry.set_alias(release.ref, "champion")
    finalization.finalize_traffic(services, release, {})
    release_queue.release_lock(services, release)


def _built(
    services: Services, spec: ReleaseSpec, version: int, reached: Callable[[str], None]
) -> tuple[Release, str]:
    """The tasks of the DAG up to the published bundle. Raises `Permanent` where a gate stops it."""
    asked = Request(f"release_{MODEL}", f"v{version}", now(), str(version), "benchmark", "benchmark", False)
    release = services.releases.open(asked, spec, int)
    place = release_queue.acquire(services, release)
    if place.turn is not release_queue.QueueState.TAKEN:
        raise Permanent(f"{release.id}: {place.words}", remedy="nobody else releases here")
    try:
        exported = build_stages.export(services, release).value
        build_stages.check_data(services, release, exported)
        gated = []
        for variant in variants(spec):
            quantized = build_stages.quantize(services, release, exported, variant).value
            compiled = [build_stages.compile(services, release, quantized, each) for each in spec.targets]
            gated.append(
                build_stages.gate(services, release, exported, quantized, [one.value for one in compiled])
            )
            print(f"  v{version}: {compiled[0].words}; {gated[-1].words}", flush=True)
        reached("judged")
        digests = [one.value for one in gated]
        chosen = build_stages.choose(services, release, digests).value
        bundle = build_stages.publish(services, release, exported, digests, chosen).value
    except Permanent:
        release_queue.release_lock(services, release)
        raise
    reached("published")
    return release, bundle


def _rolled_out(
    services: Services, release: Release, bundle: str, reached: Callable[[str], None]
) -> RolloutProgress:
    """Asked of the controller, as the DAG's task does."""
    seen, until = "", time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            progress = services.rollouts.begin(release.id, bundle)
        except Retryable as busy:  # as Airflow repeats a task
            print(f"  v{release.version}: asked again: {busy.problem}", flush=True)
            time.sleep(1)
            continue
        if progress.phase is RolloutPhase.PROGRESSING and "pods ready" not in seen:
            reached("pods ready")
        state = f"pods ready {progress.words}" if progress.phase is RolloutPhase.PROGRESSING else ""
        if state != seen:
            seen = state
            print(f"  v{release.version}: {progress.words}", flush=True)
        if not progress.phase.goes_on:
            reached(progress.phase.value)
            return progress
        time.sleep(0.05)
    raise TimeoutError(f"v{release.version} is not over after {PATIENCE_SECONDS} s: {seen}")


@contextmanager
def _callers(home: Home, bodies: list[bytes], outcome: Outcome) -> Iterator[None]:
    """Callers of the version that serves, without pause. None before there is one."""
    if not bodies:
        yield
        return
    with load(
        home.ports.gateway, [f"/v2/models/{MODEL}/infer"], per_second=PER_SECOND, bodies=bodies
    ) as traffic:
        try:
            yield
        finally:
            result: Result = traffic.stop()
            outcome.sent, outcome.failed, outcome.problems = result.sent, result.failed, result.problems
            outcome.slowest_ms = round(1000 * result.slowest_seconds, 1)


def _pods(services: Services) -> list[dict[str, object]]:
    """What the pods that serve now say of themselves."""
    found: list[dict[str, object]] = []
    for ref in services.platform.deployments(MODEL):
        for endpoint in services.platform.status(ref).endpoints:
            text = httpx.get(f"http://{endpoint}/metrics").text
            wanted = ("slipway_engine_memory_bytes", "slipway_gpu_", "slipway_rows_total")
            found.append(
                {"version": ref.version}
                | dict(_lines(line for line in text.splitlines() if line.startswith(wanted)))
            )
    return found


def _lines(lines: Iterator[str]) -> Iterator[tuple[str, float]]:
    for line in lines:
        name, _, value = line.rpartition(" ")
        with suppress(ValueError):
            yield name.partition("{")[0], float(value)


def _used_mb() -> int:
    found = nvml.reading()
    return found.memory_used_bytes >> 20 if found else 0


def _requests() -> list[bytes]:
    """One row each, of rows that no version has seen; a fifth of them as scanners give them."""
    pixels, _ = digits()
    rows = pixels[1::2][:50]
    return [
        json.dumps(
            {
                "inputs": [
                    {
                        "name": "input",
                        "datatype": "FP32",
                        "shape": [1, 64],
                        "data": (row * (UNSCALED if number % 5 == 0 else 1)).tolist(),
                    }
                ]
            }
        ).encode()
        for number, row in enumerate(rows)
    ]


def _versions(work: Path) -> dict[int, Path]:
    """Good, trained on noise, good but for the softmax that overflows, good."""
    pixels, labels = digits()
    noise = np.random.default_rng(0).integers(0, 10, len(labels))
    good = [trained(pixels, labels, seed) for seed in (0, 1, 2)]
    models = good[0], trained(pixels, noise, 0), _with_plain_softmax(good[1]), good[2]
    return {version: saved(work / f"v{version}", model) for version, model in enumerate(models, start=1)}


def _with_plain_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """exp(x) / sum(exp(x)), which is infinity by infinity as soon as one x is above 88."""
    nodes = list(model.graph.node)
    place = next(n for n, node in enumerate(nodes) if node.op_type == "Softmax")
    (last,), (answer,) = nodes[place].input, nodes[place].output
    nodes[place : place + 1] = [
        helper.make_node("Exp", [last], ["powers"]),
        helper.make_node("ReduceSum", ["powers", "axes"], ["whole"], keepdims=1),
        helper.make_node("Div", ["powers", "whole"], [answer]),
    ]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    os.environ.setdefault("SLIPWAY_DEVICE", "cuda")
    sys.exit(main(*sys.argv[1:]))
