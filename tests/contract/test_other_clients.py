"""Clients that others wrote, unmodified, against a pod and through a real Envoy: Triton's, KServe's, gRPC's.

More of tritonclient is in test_pod_protocol.py and test_grpc_through_envoy.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.clients import environment
from tests.contract.test_pod_protocol import KINDS

# What tests/clients/ask_kserve.py sends of each datatype, as it comes back.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "INT64": [2**53 + 1, -(2**63)],
    "FP16": [0.5, -65504.0],
    "FP32": [0.10000000149011612, -3.0000000054977558e38],
    "FP64": [0.1, -1e300],
    "BYTES": ["a", "ü€"],
}


@cache
def said(script: str, address: str) -> dict[str, Any]:
    """What the script's clients got, asked once for each address."""
    try:
        return environment.run(script, address)
    except environment.Unreachable as error:
        pytest.skip(f"the clients of others are not here: {error}")


@pytest.fixture
def kserve(address: str) -> dict[str, Any]:
    return said("ask_kserve.py", address)


@pytest.fixture
def generic(address: str) -> dict[str, Any]:
    return said("ask_grpc.py", address)


def test_kserves_clients_read_the_health_of_the_server_and_of_a_model(kserve: dict[str, Any]) -> None:
    for protocol in ("rest", "grpc"):
        assert [kserve[f"{protocol} {what}"] for what in ("live", "ready", "model ready")] == [True] * 3
    assert kserve["rest no model ready"] is False
    assert kserve["grpc no model ready"].startswith("NOT_FOUND: ")


@pytest.mark.parametrize("datatype", VALUES)
def test_kserves_clients_get_every_datatype_back_as_it_went(kserve: dict[str, Any], datatype: str) -> None:
    ways = ("rest {} binary", "grpc {} raw", "rest {} json", "grpc {} typed")
    # The client itself sends FP16 as bytes only.
    for way in ways[:2] if datatype == "FP16" else ways:
        assert kserve[way.format(datatype)] == [VALUES[datatype], [1, 2]], way


def test_kserves_clients_choose_outputs_and_versions(kserve: dict[str, Any]) -> None:
    assert kserve["rest chosen output"] == kserve["grpc version"] == [VALUES["FP32"], [1, 2]]


def test_kserves_clients_read_numbers_that_are_none(kserve: dict[str, Any]) -> None:
    assert kserve["rest odd"] == kserve["grpc odd"] == [["nan", "inf", "-inf", 1.0], [2, 2]]
    # It writes NaN as null.
    assert kserve["rest odd json"] == [["nan", "nan"], [1, 2]]


def test_kserves_clients_may_ask_with_no_rows(kserve: dict[str, Any]) -> None:
    assert kserve["rest no rows json"] == kserve["rest no rows binary"] == [[], [0, 2]]


def test_kserves_clients_are_told_what_was_wrong(kserve: dict[str, Any]) -> None:
    assert "echo_int64" in kserve["rest unknown"]
    assert "404" in kserve["rest unknown"]
    assert kserve["grpc unknown"].startswith("NOT_FOUND: ")
    assert "echo_int64" in kserve["grpc unknown"]
    assert "send INT64" in kserve["rest wrong"]
    assert kserve["grpc wrong"].startswith("INVALID_ARGUMENT: input 'x': ")


@pytest.mark.parametrize("datatype", [*VALUES, "BF16"])
def test_tritons_clients_get_every_datatype_back_as_it_went(address: str, datatype: str) -> None:
    for words in (triton_http, triton_grpc):
        with words.InferenceServerClient(address) as client:
            array = KINDS[datatype][1]
            sent = words.InferInput("x", list(array.shape), datatype)
            sent.set_data_from_numpy(array)
            found = client.infer(f"echo_{datatype.lower()}", [sent]).as_numpy("y")
            np.testing.assert_array_equal(found, array)
            none = words.InferInput("x", [0, 2], datatype)
            none.set_data_from_numpy(array[:0])
            assert client.infer(f"echo_{datatype.lower()}", [none]).as_numpy("y").shape == (0, 2)


def test_rest_over_http2_is_answered_as_over_http1(address: str) -> None:
    found = said("ask_http2.py", address)
    assert {
        name: found[name][:2] for name in ("live", "ready", "server", "model", "infer", "unknown", "wrong")
    } == {
        "live": ["HTTP/2", 200],
        "ready": ["HTTP/2", 200],
        "server": ["HTTP/2", 200],
        "model": ["HTTP/2", 200],
        "infer": ["HTTP/2", 200],
        "unknown": ["HTTP/2", 404],
        "wrong": ["HTTP/2", 400],
    }
    assert found["infer"][2]["outputs"][0]["data"] == [1.0, 2.0]
    assert found["binary"] == ["HTTP/2", 200, [1.0, 2.0]]
    assert "echo_fp32" in found["unknown"][2]["error"]
    assert "the pod never casts" in found["wrong"][2]["error"]
    # Larger than the windows of HTTP/2 are at first, many at once, on one connection.
    assert found["large"] == ["HTTP/2", 200, 90_000]
    assert found["many"] == list(range(50))


def test_a_client_that_knows_no_message_learns_them_by_reflection(generic: dict[str, Any]) -> None:
    assert generic["services"] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]
    assert {"ServerLive", "ModelInfer", "ModelStreamInfer"} <= set(generic["methods"])
    assert [generic[name] for name in ("live", "ready", "server")] == [True, True, "slipway"]
    assert [generic[name] for name in ("metadata", "config")] == ["FP32", "x"]
    assert generic["missing symbol"].startswith("KeyError: ")
    # Found, unknown symbol, unknown file (NOT_FOUND), and nothing asked (INVALID_ARGUMENT).
    assert generic["reflection"] == ["list_services_response", 5, 5, 3]
    assert generic["reflection v1"] == 4


def test_probes_ask_grpcs_own_health_service(generic: dict[str, Any]) -> None:
    for service in ("", "inference.GRPCInferenceService", "echo_fp32"):
        assert generic[f"health {service}"] == generic[f"watch {service}"] == "SERVING"
    assert generic["health nobody"].startswith("NOT_FOUND: ")
    assert generic["watch nobody"] == "SERVICE_UNKNOWN"


def test_what_is_no_method_is_unimplemented(generic: dict[str, Any]) -> None:
    assert generic["unknown method"].startswith("UNIMPLEMENTED: ")
    assert generic["unknown service"].startswith("UNIMPLEMENTED: ")
    assert "{" not in generic["unknown method"]
