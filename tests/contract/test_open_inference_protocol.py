"""What the Open Inference Protocol demands, said in its own words to a pod and through a real Envoy.

`open_inference_rest.yaml` is the protocol's, unchanged. docs/serving.md has the table of its demands.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import jsonschema
import numpy as np
import orjson
import pytest
import yaml
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.contract.conftest import ELEMENTS

SCHEMAS = yaml.safe_load(Path(__file__).with_name("open_inference_rest.yaml").read_text())["components"]
PLATFORMS = {
    *("tensorrt_plan", "tensorflow_graphdef", "tensorflow_savedmodel", "onnx_onnxv1"),
    *("pytorch_torchscript", "mxnet_mxnet", "caffe2_netdef"),
}


def is_as_told(document: Any, schema: str) -> None:
    rules = {"$ref": f"#/components/schemas/{schema}", "components": SCHEMAS}
    jsonschema.validate(document, rules)


def tensor(data: Any, shape: Any = (1, 2), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"name": "x", "shape": shape, "datatype": datatype, "data": data, **more}


class Caller:
    def __init__(self, address: str) -> None:
        self.base = f"http://{address}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.base + path, timeout=20)

    def infer(self, body: Any, model: str = "echo_fp32") -> httpx.Response:
        """`body` as it is, or what is to be written as JSON."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return httpx.post(f"{self.base}/v2/models/{model}/infer", content=content, timeout=20)

    def output(self, body: Any, model: str = "echo_fp32") -> dict[str, Any]:
        answer = self.infer(body, model)
        assert answer.status_code == 200, answer.text
        is_as_told(orjson.loads(answer.content), "inference_response")
        found: dict[str, Any] = orjson.loads(answer.content)["outputs"][0]
        return found

    def refused(self, body: Any, model: str = "echo_fp32") -> str:
        answer = self.infer(body, model)
        assert answer.status_code == 400, answer.text
        is_as_told(answer.json(), "inference_error_response")
        return str(answer.json()["error"])


@pytest.fixture
def ask(address: str) -> Caller:
    return Caller(address)


def test_the_table_of_demands_names_tests_that_there_are() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "serving.md").read_text()
    table = page.split("demand by demand")[1].split("\n## ")[0]
    named = set(re.findall(r"`(test_\w+?)(?:\.py)?`", table))
    there = "".join(f"{each.name}\n{each.read_text()}" for each in root.glob("tests/**/test_*.py"))
    assert len(named) > 20
    assert not {name for name in named if f"def {name}(" not in there and f"{name}.py\n" not in there}


def test_health_says_in_json_how_it_is(ask: Caller) -> None:
    assert ask.get("/v2/health/live").json() == {"live": True}
    # `live` in the protocol's text, `ready` in what its clients read.
    assert ask.get("/v2/health/ready").json() == {"live": True, "ready": True}
    for path in ("/v2/models/echo_fp32/ready", "/v2/models/echo_fp32/versions/1/ready"):
        assert ask.get(path).json() == {"name": "echo_fp32", "ready": True}
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/echo_fp32/ready"):
        assert ask.get(path).headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_describes_itself(ask: Caller, path: str) -> None:
    document = ask.get(path).json()
    is_as_told(document, "metadata_server_response")
    assert document["name"] == "slipway"
    assert "binary_tensor_data" in document["extensions"]


@pytest.mark.parametrize("path", ["/v2/models/echo_int64", "/v2/models/echo_int64/versions/1"])
def test_a_model_describes_itself(ask: Caller, path: str) -> None:
    document = ask.get(path).json()
    is_as_told(document, "metadata_model_response")
    assert document["platform"] in PLATFORMS
    assert document["versions"] == ["1"]
    assert document["inputs"] == [{"name": "x", "datatype": "INT64", "shape": [-1, 2]}]
    assert set(map(type, document["properties"].values())) == {str}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/echo_fp32/versions/9", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("POST", "/v2/models/nobody/infer", 404),
        ("GET", "/v2/models/echo_fp32/infer", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/nothing", 404),
    ],
)
def test_what_fails_is_an_http_error_that_says_why(ask: Caller, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, ask.base + path, timeout=20)
    assert answer.status_code == status
    is_as_told(answer.json(), "inference_error_response")
    assert answer.json()["error"]


def test_the_id_of_a_request_is_in_its_answer(ask: Caller) -> None:
    assert ask.infer({"id": "42", "inputs": [tensor([1, 2])]}).json()["id"] == "42"
    # null is as good as none.
    assert "id" not in ask.infer({"id": None, "inputs": [tensor([1, 2])]}).json()
    assert "`id` must be a string" in ask.refused({"id": 42, "inputs": [tensor([1, 2])]})


@pytest.mark.parametrize("field", ["name", "shape", "datatype", "data"])
def test_a_tensor_without_a_required_field_is_refused(ask: Caller, field: str) -> None:
    incomplete = {name: value for name, value in tensor([1, 2]).items() if name != field}
    assert ask.refused({"inputs": [incomplete]})


@pytest.mark.parametrize("data", [[[1, 2], [3, 4]], [1, 2, 3, 4]], ids=["nested", "flat"])
def test_tensors_are_row_major_nested_or_flat(ask: Caller, data: Any) -> None:
    assert ask.output({"inputs": [tensor(data, (2, 2))]}) == tensor([1.0, 2.0, 3.0, 4.0], (2, 2)) | {
        "name": "y"
    }


def test_only_the_outputs_asked_for_are_returned(ask: Caller) -> None:
    body = {"inputs": [tensor([1, 2])], "outputs": [{"name": "y"}]}
    assert ask.output(body)["name"] == "y"
    assert "no output 'z'" in ask.refused({**body, "outputs": [{"name": "z"}]})
    for none in ([], None):
        assert ask.output({**body, "outputs": none, "parameters": None})["name"] == "y"


@pytest.mark.parametrize("data", [[], [[]][:0]])
@pytest.mark.parametrize("kind", sorted(ELEMENTS))
def test_a_tensor_may_have_no_rows(ask: Caller, kind: str, data: Any) -> None:
    body = {"id": "n", "inputs": [tensor(data, (0, 2), kind.upper())]}
    found = ask.output(body, f"echo_{kind}")
    assert (found["shape"], found["data"]) == ([0, 2], [])
    # As clients of the binary extension send it: no data, and no bytes of it.
    bare = {"name": "x", "shape": [0, 2], "datatype": kind.upper(), "parameters": {"binary_data_size": 0}}
    answer = ask.infer({"inputs": [bare], "parameters": {"binary_data_output": True}}, f"echo_{kind}")
    assert answer.json()["outputs"][0]["parameters"] == {"binary_data_size": 0}


@pytest.mark.parametrize("shape", [[1, 0], [2**62, 0], [0, 0], [0, 2**63], [0, 2**62, 2**62]], ids=str)
def test_a_shape_without_elements_asks_for_no_room(ask: Caller, shape: list[int]) -> None:
    assert ask.refused({"inputs": [tensor([], shape)]})
    model = "free" if len(shape) == 2 else "deep"
    assert "number of rows" in ask.refused({"inputs": [tensor([], shape)]}, model)


@pytest.mark.parametrize("size", [True, 1.0, -1, "1", None, 2**64, [1]])
def test_a_dimension_is_a_whole_number(ask: Caller, size: Any) -> None:
    assert ask.output({"inputs": [tensor([1, 2])]})["shape"] == [1, 2]
    body = b'{"inputs":[{"name":"x","datatype":"FP32","data":[1,2],"shape":[%s,2]}]}'
    text = b"18446744073709551616" if size == 2**64 else orjson.dumps(size)
    assert ask.refused(body % text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": [tensor([True, 2])]},
        {"inputs": [tensor(["1", 2])]},
        {"inputs": [tensor([1, 2], parameters={"binary_data_size": True})]},
        {"inputs": [tensor([1, 2])], "parameters": {"binary_data_output": 1}},
        {"inputs": [tensor([1, 2])], "parameters": {"priority": True}},
        {"inputs": [tensor([1, 2])], "parameters": {"timeout": True}},
        {"inputs": [tensor([1, 2])], "parameters": {"timeout": 1.0}},
        {"inputs": [tensor([1, 2])], "outputs": [{"name": "y", "parameters": {"binary_data": 0}}]},
        {"inputs": [tensor([1, 2])], "outputs": [{"name": "y", "parameters": {"binary_data": "true"}}]},
    ],
    ids=str,
)
def test_booleans_numbers_and_text_are_not_each_other(ask: Caller, wrong: Any) -> None:
    assert ask.refused(wrong)


@pytest.mark.parametrize("model", ["odd", "odd64"])
def test_numbers_that_are_none_come_back_by_name(ask: Caller, model: str) -> None:
    datatype = "FP32" if model == "odd" else "FP64"
    words = ["NaN", "Infinity", "-Infinity", 1.5]
    for data in (
        # As Python and Triton write them, by name, and NaN as null.
        b"[NaN,Infinity,-Infinity,1.5]",
        b"[[NaN,Infinity],[-Infinity,1.5]]",
        b'["NaN","Infinity","-Infinity",1.5]',
        b'[null,"Infinity",-Infinity,1.5]',
    ):
        body = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"%s","data":%s}]}'
        found = ask.output(body % (datatype.encode(), data), model)
        assert found["data"] == words, data
        # What numpy makes of it, as every client that hands out arrays does.
        expected = [np.nan, np.inf, -np.inf, 1.5]
        np.testing.assert_array_equal(np.array(found["data"], np.float32), expected)


@pytest.mark.parametrize("word", [b"NaN", b"-Infinity", b'"NaN"', b"null"])
def test_numbers_that_are_none_are_refused_where_the_spec_forbids_them(ask: Caller, word: bytes) -> None:
    for kind in ("FP32", "FP64", "FP16", "BF16"):
        body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"%s","data":[1,%s]}]}'
        told = ask.refused(body % (kind.encode(), word), f"echo_{kind.lower()}")
        assert "holds NaN (null in JSON) or infinity" in told
        assert "serving.finite_inputs" in told
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[1,%s]}]}'
    assert "`data` must be integers" in ask.refused(body % word, "echo_int64")


def test_very_many_bare_words_are_refused_before_they_cost_memory(ask: Caller) -> None:
    body = b'{"inputs":[{"name":"x","shape":[200000,2],"datatype":"FP32","data":[%s]}]}'
    strings = (
        body[:-2]
        + b',{"name":"z","datatype":"BYTES","shape":[300000],"data":['
        + b'"",' * 300_000
        + b'""]}]}'
    )
    for text in (body % b",".join([b"Infinity"] * 400_000), strings % b",".join([b"NaN"] * 400_000)):
        answer = ask.infer(text, "odd")
        assert (answer.status_code, "binary data" in answer.json()["error"]) == (413, True)
    # Many NaN are no trouble: they are what missing values are.
    some = body.replace(b"200000", b"5000") % b",".join([b"NaN"] * 10_000)
    assert ask.output(some, "odd")["data"] == ["NaN"] * 10_000


@pytest.mark.parametrize("text", [b"3.4e38", b"-3.4e38", b"1e39"])
def test_a_number_out_of_range_is_refused_not_made_infinite(ask: Caller, text: bytes) -> None:
    for kind in ("FP16", "BF16"):
        body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"%s","data":[1,%s]}]}'
        assert "too large" in ask.refused(body % (kind.encode(), text), f"echo_{kind.lower()}")


def test_a_word_in_text_is_text(ask: Caller) -> None:
    text = ["NaN", 'a "NaN" \\ -Infinity']
    assert ask.output({"inputs": [tensor(text, datatype="BYTES")]}, "echo_bytes")["data"] == text
    mixed = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"BYTES","data":["NaN",NaN]}]}'
    assert "got null or NaN" in ask.refused(mixed, "echo_bytes")
    named = b'{"id":"Infinity \\\\","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,1]}]}'
    assert ask.infer(named, "odd").json()["id"] == "Infinity \\"


@pytest.mark.parametrize(
    "text", [b"[NaN", b'[NaN,"\\\\"\0]', b'{"a":NaN', b"{NaN:1}", b"NaNaN", b'"NaN', b"{'a':NaN}", b"-NaN"]
)
def test_what_else_is_no_json_is_refused(ask: Caller, text: bytes) -> None:
    assert "the body is not" in ask.refused(text)


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/echo_fp32/ready"])
def test_http_1_0_is_answered(address: str, path: str) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ", 2)[1] == b"200"


def raw_request(**fields: Any) -> Any:
    asked = service_pb2.ModelInferRequest(model_name="echo_fp32", **fields)
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    return asked


def test_grpc_has_raw_contents_in_the_inputs_order_or_none(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        whole = np.array([1, 2], np.float32).tobytes()
        answer = stub.ModelInfer(raw_request(id="7", raw_input_contents=[whole]), timeout=10)
        assert (answer.id, answer.raw_output_contents[0]) == ("7", whole)
        assert not answer.outputs[0].HasField("contents")
        both = raw_request(raw_input_contents=[whole])
        both.inputs[0].contents.fp32_contents.extend([1, 2])
        for wrong in (
            both,
            raw_request(raw_input_contents=[whole, whole]),
            raw_request(raw_input_contents=[b"1"]),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(wrong, timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_takes_half_floats_as_raw_contents_only(address: str) -> None:
    asked = service_pb2.ModelInferRequest(model_name="echo_fp16")
    asked.inputs.add(name="x", datatype="FP16", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=10)
    assert "FP16 has no typed contents" in refused.value.details()


def test_grpc_describes_server_and_model(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=10).live
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
        assert stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=10).name == "slipway"
        found = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="echo_bytes"), timeout=10)
        assert (found.platform, found.inputs[0].datatype) == ("onnx_onnxv1", "BYTES")
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="nobody"), timeout=10)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
