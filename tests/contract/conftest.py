"""A pod with a model of each datatype, and a real Envoy before it, for everybody's clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onnx import TensorProto

from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot
from tests.bundles import elementwise, make_bundle
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway, gateway_running

ELEMENTS = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
    "bytes": TensorProto.STRING,
}
# Takes and gives NaN and infinity.
ODD = {"finite_inputs": False, "finite_outputs": False}


@pytest.fixture(scope="session")
def echo_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    """`echo_<datatype>` [-1, 2] answer what they are asked; `odd` and `odd64` do with any number, `free` and
    `deep` with any shape of two and three dimensions."""
    folder = tmp_path_factory.mktemp("echoes")
    named = {f"echo_{kind}": (element, {}) for kind, element in ELEMENTS.items()}
    odd = {"odd": (TensorProto.FLOAT, ODD), "odd64": (TensorProto.DOUBLE, ODD)}
    bundles = [
        make_bundle(folder, elementwise(element=element), name=name, serving=serving)
        for name, (element, serving) in {**named, **odd}.items()
    ]
    for name, axes in {"free": ("N", "T"), "deep": ("N", "T", "U")}.items():
        bundles.append(make_bundle(folder, elementwise(shape=axes), name=name))
    with running_pod(*bundles) as running:
        yield running


@pytest.fixture(scope="session")
def echo_gateway(echo_pod: RunningPod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_running(tmp_path_factory.mktemp("home")) as running:
        names = [entry.name for entry in echo_pod.pod.repository.entries]
        for name in names:
            endpoint = Endpoint("127.0.0.1", echo_pod.port)
            stable = Deployment(DeploymentRef(name, Slot.BLUE, "b1", 1), (endpoint,))
            running.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0)
        for name in names:
            running.wait(lambda name=name: running.client.get(f"/v2/models/{name}/ready").status_code == 200)
        yield running


@pytest.fixture(params=["pod", "gateway"])
def address(request: pytest.FixtureRequest) -> str:
    """Host and port of the pod, and of the gateway before it."""
    where = request.getfixturevalue(f"echo_{request.param}")
    return f"127.0.0.1:{where.port if request.param == 'pod' else where.home.ports.gateway}"
