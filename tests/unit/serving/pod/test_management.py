"""Where a pod is managed: an address of its own, for its owner only; and what readiness says then."""

from __future__ import annotations

import argparse
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.pod import __main__ as pod_command
from serving.pod.management import Address, parse
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod

UNLOAD = "/v2/repository/models/credit_risk/unload"
LOAD = "/v2/repository/models/credit_risk/load"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pod.sock"


@pytest.fixture
def pod(mlp_bundle: Path, path: Path) -> Iterator[RunningPod]:
    with running_pod(mlp_bundle, management=Address(path=path)) as running:
        yield running


def over(path: Path) -> httpx.Client:
    return httpx.Client(base_url="http://pod", transport=httpx.HTTPTransport(uds=str(path)), timeout=10)


def test_a_socket_is_its_owners_alone(pod: RunningPod, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.umask(0o022) == 0o022


def test_models_are_managed_over_the_socket(pod: RunningPod, path: Path) -> None:
    with over(path) as client:
        assert client.post(UNLOAD).status_code == 200
        (row,) = client.post("/v2/repository/index").json()
        assert (row["state"], row["reason"]) == ("UNAVAILABLE", "unloaded")
        assert client.post(LOAD).status_code == 200
    with grpc.insecure_channel(f"unix:{path}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        named = service_pb2.RepositoryModelUnloadRequest(model_name="credit_risk")
        stub.RepositoryModelUnload(named, timeout=10)
        assert not stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready


def test_the_data_port_says_where_the_pod_is_managed(pod: RunningPod, path: Path) -> None:
    for target in (UNLOAD, LOAD, "/v2/repository/index", "/v2/%72epository/index", "//v2//repository/index"):
        answer = pod.http.post(httpx.URL(f"http://127.0.0.1:{pod.port}{target}"))
        assert answer.status_code == 404
        if not target.startswith("//"):
            assert f"ask unix:{path}" in answer.json()["error"]
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert f"ask unix:{path}" in refused.value.details()
    assert pod.http.get("/v2/health/ready").status_code == 200


def test_a_pod_without_an_address_says_how_to_get_one(mlp_bundle: Path) -> None:
    with running_pod(mlp_bundle, management=None) as pod:
        answer = pod.http.post("/v2/repository/index")
        assert (answer.status_code, "start the pod with --management" in answer.text) == (404, True)


def test_a_pod_is_ready_while_it_answers_what_it_was_started_for(tmp_path: Path, path: Path) -> None:
    bundles = make_bundle(tmp_path, mlp()), make_bundle(tmp_path, mlp(), name="wine")
    with running_pod(*bundles, management=Address(path=path)) as pod, over(path) as client:
        assert pod.http.get("/v2/health/ready").status_code == 200
        assert client.post(UNLOAD).status_code == 200
        answer = pod.http.get("/v2/health/ready")
        assert answer.status_code == 503
        assert "credit_risk v1: unloaded" in answer.json()["error"]
        assert pod.http.get("/v2/models/wine/ready").status_code == 200
        (bundles[0] / "credit_risk/1/model.onnx").write_bytes(b"garbage")
        assert client.post(LOAD).status_code == 400
        assert "cannot load" in pod.http.get("/v2/health/ready").json()["error"]


def test_a_reload_that_fails_leaves_the_pod_ready(pod: RunningPod, path: Path, mlp_bundle: Path) -> None:
    file = mlp_bundle / "credit_risk/1/model.onnx"
    kept = file.read_bytes()
    try:
        file.write_bytes(b"garbage")
        with over(path) as client:
            assert client.post(LOAD).status_code == 400
        assert pod.http.get("/v2/health/ready").status_code == 200
    finally:
        file.write_bytes(kept)


def test_the_socket_goes_with_the_pod(mlp_bundle: Path, path: Path) -> None:
    with running_pod(mlp_bundle, management=Address(path=path)):
        assert path.exists()
    assert not path.exists()


def test_what_a_killed_pod_left_behind_is_in_nobodys_way(mlp_bundle: Path, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with running_pod(mlp_bundle, management=Address(path=path)), over(path) as client:
        assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("form", ["unix", "tcp"])
def test_an_address_that_is_taken_is_named(
    mlp_bundle: Path, path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX if form == "unix" else socket.AF_INET) as other:
        other.bind(str(path) if form == "unix" else ("127.0.0.1", 0))
        other.listen()
        address = f"unix:{path}" if form == "unix" else f"127.0.0.1:{other.getsockname()[1]}"
        arguments = ["--bundle", str(mlp_bundle), "--unverified", "--port", "0", "--management", address]
        assert pod_command.main(arguments) == 2
        assert path.exists() is (form == "unix")
    assert f"and {address}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/pod.sock", Address(path=Path("/run/pod.sock"))),
        ("127.0.0.1:8600", Address(host="127.0.0.1", port=8600)),
        ("[::1]:0", Address(host="::1")),
    ],
)
def test_an_address_is_a_path_or_a_port(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize("text", ["", "unix:", "8600", ":8600", "host:", "host:x", "host:70000", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="neither unix:PATH nor HOST:PORT"):
        parse(text)
