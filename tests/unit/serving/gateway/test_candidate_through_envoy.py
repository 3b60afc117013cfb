"""A candidate at weight 0, asked through a real Envoy at real pods as its callers will be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from model_store.engines.noise import NOISE
from model_store.errors import Permanent, Retryable
from model_store.stages.sample import Sample
from serving.control import answers_through_gateway, release_deployment
from serving.control.answers_through_gateway import NotAsInTheGates
from serving.control.rollout.plan import Phase
from serving.control.wiring import now
from serving.gateway import api_keys
from serving.gateway.candidate import CandidateThroughEnvoy
from serving.gateway.router.base import TooManyRows
from serving.types import (
    ALL_STABLE,
    Deployment,
    DeploymentRef,
    Endpoint,
    RateLimit,
    Route,
    RouteSettings,
    Slot,
)
from tests.airflow.world import MODEL, World
from tests.bundles import elementwise, make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway

SECONDS = 10.0
names = (f"first{number}" for number in count())


def placed(name: str, pod: RunningPod) -> Deployment:
    return Deployment(DeploymentRef(name, Slot.BLUE, "b" * 24, 1), (Endpoint("127.0.0.1", pod.port),))


@contextmanager
def candidate(
    gateway: Gateway,
    folder: Path,
    model: onnx.ModelProto,
    settings: RouteSettings | None = None,
    *,
    name: str = "",
    **options: Any,
) -> Iterator[tuple[Route, RunningPod]]:
    """A first version in the route at weight 0."""
    name = name or next(names)
    with running_pod(make_bundle(folder, model, name=name), **options) as pod:
        arm = placed(name, pod)
        settings = settings or RouteSettings()
        gateway.router.write(name, ALL_STABLE, stable=None, candidate=arm, at=0, settings=settings)
        yield gateway.router.read(name), pod


def ask(gateway: Gateway, route: Route, rows: dict[str, Any], *, seconds: float = SECONDS) -> Any:
    with CandidateThroughEnvoy(gateway.home, route).opened() as asked:
        return asked.answer(rows, until=time.monotonic() + seconds)


@pytest.mark.parametrize(
    ("element", "values"),
    [
        (TensorProto.DOUBLE, np.array([0.1, 2.0**53 + 2, -1e300, 5e-324])),
        (TensorProto.INT64, np.array([2**53 + 1, -(2**62), 0, 1])),
        (TensorProto.FLOAT16, np.array([0.1, 65504, 0, -1], np.float16)),
        (TensorProto.BOOL, np.array([True, False, False, True])),
        (TensorProto.UINT8, np.array([0, 255, 1, 2], np.uint8)),
        (TensorProto.STRING, np.array(["Grüße", "", "日本\n", "{}"], object)),
    ],
    ids=["float64", "int64", "float16", "bool", "uint8", "text"],
)
def test_every_value_comes_and_goes_as_it_is(
    gateway: Gateway, tmp_path: Path, element: int, values: np.ndarray[Any, Any]
) -> None:
    rows = values.reshape(2, 2)
    with candidate(gateway, tmp_path, elementwise("Identity", element)) as (route, _):
        answers = ask(gateway, route, {"x": rows})
    assert answers["y"].dtype.kind == ("U" if values.dtype == object else values.dtype.kind)
    np.testing.assert_array_equal(answers["y"], rows.astype(answers["y"].dtype))


def test_it_waits_until_envoy_has_heard_of_the_candidate(gateway: Gateway, tmp_path: Path) -> None:
    name = next(names)
    with running_pod(make_bundle(tmp_path, mlp(), name=name)) as pod:
        arm = placed(name, pod)
        route = Route(name, 1, ALL_STABLE, None, arm)
        put = {"stable": None, "candidate": arm, "at": 0}
        later = threading.Timer(0.7, lambda: gateway.router.write(name, ALL_STABLE, **put))  # type: ignore[arg-type]
        later.start()
        assert ask(gateway, route, {"input": np.zeros((1, 4), "f")})["label"].shape == (1,)
        later.join()


def test_a_model_that_wants_keys_is_asked_with_one_that_ends_with_the_asking(
    gateway: Gateway, tmp_path: Path
) -> None:
    with candidate(gateway, tmp_path, mlp(), RouteSettings(api_keys=True)) as (route, _):
        assert gateway.infer(route.service, {"x-slipway-arm": "candidate"}).status_code in (401, 404)
        ask(gateway, route, {"input": np.zeros((1, 4), "f")})
    assert api_keys.clients_of(gateway.home) == []


def test_an_envoy_on_another_machine_is_asked_where_it_is(gateway: Gateway, tmp_path: Path) -> None:
    with candidate(gateway, tmp_path, mlp()) as (route, _):
        elsewhere = replace(gateway, home=replace(gateway.home, gateway_at=gateway.home.gateway_url))
        assert ask(elsewhere, route, {"input": np.zeros((1, 4), "f")})["label"].shape == (1,)


def test_a_limit_on_requests_is_waited_for(gateway: Gateway, tmp_path: Path) -> None:
    limited = RouteSettings(rate_limit=RateLimit(per_second=2, burst=1))
    with candidate(gateway, tmp_path, mlp(), limited) as (route, _):
        for _ in range(3):
            ask(gateway, route, {"input": np.zeros((1, 4), "f")})


def test_what_the_candidate_itself_answers_wrongly_is_told_in_its_words(
    gateway: Gateway, tmp_path: Path
) -> None:
    name = next(names)
    with (
        candidate(gateway, tmp_path, mlp(), name=name, faults=f"{name}@1:error_rate=1") as (route, _),
        pytest.raises(Permanent, match=f"the candidate of {name} answers an evaluation row with 500"),
    ):
        ask(gateway, route, {"input": np.zeros((1, 4), "f")})


def test_rows_that_the_model_refuses_are_told_too(gateway: Gateway, tmp_path: Path) -> None:
    with candidate(gateway, tmp_path, mlp()) as (route, _), pytest.raises(Permanent, match="400"):
        ask(gateway, route, {"input": np.zeros((1, 5), "f")})


def test_more_rows_than_the_model_takes_are_not_its_fault(gateway: Gateway, tmp_path: Path) -> None:
    name = next(names)
    few = make_bundle(tmp_path, mlp(), name=name, serving={"max_rows": 2})
    with running_pod(few) as pod:
        arm = placed(name, pod)
        gateway.router.write(name, ALL_STABLE, stable=None, candidate=arm, at=0)
        with pytest.raises(TooManyRows, match="413"):
            ask(gateway, gateway.router.read(name), {"input": np.zeros((3, 4), "f")})


def test_where_nobody_answers_that_is_said(gateway: Gateway, tmp_path: Path) -> None:
    with candidate(gateway, tmp_path, mlp()) as (route, pod):
        pod.stop()
        with pytest.raises(Retryable, match="cannot be asked through the gateway: 503"):
            ask(gateway, route, {"input": np.zeros((1, 4), "f")}, seconds=0.5)


@pytest.mark.parametrize("seed", [0, 1], ids=["the file of the gates", "another file"])
def test_pods_that_answer_otherwise_than_the_gates_saw_get_nobody(
    gateway: Gateway, tmp_path: Path, seed: int
) -> None:
    """The pods run the model of `seed`; the gates saw that of 0."""
    import onnxruntime

    rows = np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(mlp(seed=0).SerializeToString())
    label, probabilities = session.run(["label", "probabilities"], {"input": rows})
    judged = Sample({"input": rows}, {"label": label, "probabilities": probabilities}, NOISE["fp32"])

    world = World(tmp_path)
    release, bundle = world.release(1), world.bundle(1)
    kept = world.store.put_bytes(judged.to_bytes())
    release = world.releases.built(release.id, bundle.id, at=now(), sample=kept)
    ref = release_deployment.deploy(world.services, release, bundle.id)
    world.rollouts.start(release.id, ref.id)
    with candidate(gateway, tmp_path / "pods", mlp(seed=seed), name=f"{MODEL}{seed}") as (route, _):
        real = CandidateThroughEnvoy(gateway.home, route)
        if seed == 0:
            words = answers_through_gateway.prove(world.services, release, lambda *_: real)
            assert words.startswith("64 evaluation rows")
            return
        with pytest.raises(NotAsInTheGates, match="otherwise than in the gates"):
            answers_through_gateway.prove(world.services, release, lambda *_: real)
    state = world.journal.load(release.id)
    assert (state.phase, state.step) == (Phase.ROLLED_BACK, -1), "it never got a share"
