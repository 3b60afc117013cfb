"""tritonclient, unmodified, over HTTP and gRPC: the pod understands it, and it understands the pod."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from serving.pod.grpc.messages import message
from tests.bundles import elementwise, make_bundle, mlp, model_of
from tests.pods import RunningPod, running_pod

KINDS = {
    "BOOL": (TensorProto.BOOL, np.array([[True, False], [False, True]])),
    "UINT8": (TensorProto.UINT8, np.array([[0, 255], [1, 2]], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([[0, 65535], [1, 2]], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([[0, 2**32 - 1], [1, 2]], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([[0, 2**64 - 1], [1, 2]], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([[-128, 127], [1, 2]], np.int8)),
    "INT16": (TensorProto.INT16, np.array([[-(2**15), 2**15 - 1], [1, 2]], np.int16)),
    "INT32": (TensorProto.INT32, np.array([[-(2**31), 2**31 - 1], [1, 2]], np.int32)),
    "INT64": (TensorProto.INT64, np.array([[-(2**63), 2**63 - 1], [1, 2]], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([[0.1, -65504], [1, 2]], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([[0.1, -3e38], [1, 2]], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([[0.1, -1e300], [1, 2]], np.float64)),
    "BYTES": (
        TensorProto.STRING,
        np.array([[b"", "Zürich ☕".encode()], [b"a" * 5000, b"b\0c"]], dtype=object),
    ),
    # tritonclient takes and gives it as float32 until its release 2.70, from then on as ml_dtypes' bfloat16.
    "BF16": (TensorProto.BFLOAT16, np.array([[0.5, -3.0], [1, 2]], np.float32)),
}

# For large tensors on a machine that does other things as well.
PATIENT = {"timeout_ms": 20_000}


def two_by_two() -> Any:
    """a [N, T] and b [N] give sum = a + b's row and count [N, T] of text: several tensors, a free axis."""
    value = helper.make_tensor_value_info
    return model_of(
        [
            helper.make_node("Unsqueeze", ["b", "one"], ["column"]),
            helper.make_node("Add", ["a", "column"], ["sum"]),
            helper.make_node("Cast", ["a"], ["text"], to=TensorProto.STRING),
        ],
        [value("a", TensorProto.INT64, ["N", "T"]), value("b", TensorProto.INT64, ["N"])],
        [value("sum", TensorProto.INT64, ["N", "T"]), value("text", TensorProto.STRING, ["N", "T"])],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [
        make_bundle(folder, elementwise(element=element), name=f"echo_{kind.lower()}", serving=PATIENT)
        for kind, (element, _) in KINDS.items()
    ]
    bundles.append(make_bundle(folder, mlp()))
    odd = {"finite_inputs": False, "finite_outputs": False}
    bundles.append(make_bundle(folder, elementwise(), name="odd", serving=odd))
    bundles.append(make_bundle(folder, two_by_two(), name="two"))
    bundles.append(make_bundle(folder, mlp(), name="limited", serving={"max_rows": 100}))
    with running_pod(*bundles) as running:
        yield running


@pytest.fixture(scope="module")
def over_http(pod: RunningPod) -> Iterator[Any]:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{pod.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def over_grpc(pod: RunningPod) -> Iterator[Any]:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{pod.port}")
    yield client
    client.close()


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"over_{request.param}")


@pytest.fixture(params=["http", "grpc"])
def manager(request: pytest.FixtureRequest, pod: RunningPod) -> Iterator[Any]:
    """A client of where the pod is managed."""
    words = triton_http if request.param == "http" else triton_grpc
    client = words.InferenceServerClient(f"127.0.0.1:{pod.management_port}")
    yield client
    client.close()


def words_of(client: Any) -> Any:
    return triton_grpc if isinstance(client, triton_grpc.InferenceServerClient) else triton_http


def tensor(client: Any, name: str, datatype: str, array: np.ndarray, **how: Any) -> Any:
    made = words_of(client).InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **how)
    return made


def test_the_server_says_that_it_lives_and_what_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    name = metadata["name"] if isinstance(metadata, dict) else metadata.name
    assert name == "slipway"


def test_a_model_says_what_it_takes_and_gives(client: Any) -> None:
    assert client.is_model_ready("two")
    assert client.is_model_ready("two", "1")
    metadata = client.get_model_metadata("two")
    if not isinstance(metadata, dict):
        metadata = {
            "inputs": [
                {"name": i.name, "datatype": i.datatype, "shape": list(i.shape)} for i in metadata.inputs
            ]
        }
    assert [(i["name"], i["datatype"], list(map(int, i["shape"]))) for i in metadata["inputs"]] == [
        ("a", "INT64", [-1, -1]),
        ("b", "INT64", [-1]),
    ]


def test_a_models_configuration_is_tritons(over_http: Any, over_grpc: Any) -> None:
    expected = {
        "name": "two",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 32,
        "input": [
            {"name": "a", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "b", "data_type": "TYPE_INT64", "dims": []},
        ],
        "output": [
            {"name": "sum", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "text", "data_type": "TYPE_STRING", "dims": [-1]},
        ],
        "default_model_filename": "model.onnx",
        "dynamic_batching": {"max_queue_delay_microseconds": 2000},
    }
    for version in ("", "1"):
        assert over_http.get_model_config("two", version) == expected
        config = over_grpc.get_model_config("two", version).config
        assert (config.max_batch_size, config.backend) == (32, "onnxruntime")
        assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("a", 9, [-1]), ("b", 9, [])]
    with pytest.raises(InferenceServerException, match="no model"):
        over_grpc.get_model_config("nope")


def test_statistics_count_what_was_asked(over_http: Any, over_grpc: Any) -> None:
    def now() -> dict[str, Any]:
        (found,) = over_http.get_inference_statistics("echo_uint16")["model_stats"]
        return found

    before, array = now(), KINDS["UINT16"][1]
    for _ in range(3):
        over_http.infer("echo_uint16", [tensor(over_http, "x", "UINT16", array)])
    with pytest.raises(InferenceServerException):
        over_http.infer("echo_uint16", [tensor(over_http, "x", "UINT16", array[:, :1])])
    after = now()
    assert after["inference_count"] - before["inference_count"] == 3 * len(array)
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1_600_000_000_000
    counts = {
        name: [
            after["inference_stats"][name][unit] - before["inference_stats"][name][unit]
            for unit in ("count", "ns")
        ]
        for name in after["inference_stats"]
    }
    assert (counts["success"][0], counts["fail"][0]) == (3, 1)
    assert (counts["queue"][0], counts["compute_infer"][0]) == (3, 3)
    assert counts["success"][1] > counts["compute_infer"][1] > 0
    (same,) = over_grpc.get_inference_statistics("echo_uint16").model_stats
    assert (same.inference_count, same.inference_stats.success.count) == (
        after["inference_count"],
        after["inference_stats"]["success"]["count"],
    )


def test_statistics_of_all_models_are_had_at_once(client: Any) -> None:
    found = client.get_inference_statistics()
    stats = found["model_stats"] if isinstance(found, dict) else found.model_stats
    names = [one["name"] if isinstance(one, dict) else one.name for one in stats]
    assert {"two", "echo_uint16", "credit_risk"} <= set(names)


@pytest.mark.parametrize("kind", KINDS)
def test_every_datatype_comes_back_as_it_went(client: Any, kind: str) -> None:
    array = KINDS[kind][1]
    result = client.infer(f"echo_{kind.lower()}", [tensor(client, "x", kind, array)])
    np.testing.assert_array_equal(result.as_numpy("y"), array)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("FP16", "BF16")])
def test_every_datatype_json_knows_comes_back_through_json(over_http: Any, kind: str) -> None:
    array = KINDS[kind][1]
    asked = triton_http.InferRequestedOutput("y", binary_data=False)
    sent = tensor(over_http, "x", kind, array, binary_data=False)
    result = over_http.infer(f"echo_{kind.lower()}", [sent], outputs=[asked])
    np.testing.assert_array_equal(result.as_numpy("y"), _as_json(array))


def _as_json(array: np.ndarray) -> np.ndarray:
    """tritonclient gives JSON strings back as text."""
    if array.dtype != object:
        return array
    return np.array([item.decode() for item in array.ravel()], dtype=object).reshape(array.shape)


def test_numbers_that_are_none_pass_through_tritons_json(over_http: Any) -> None:
    array = np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)
    for binary in (True, False):
        asked = triton_http.InferRequestedOutput("y", binary_data=binary)
        sent = tensor(over_http, "x", "FP32", array, binary_data=binary)
        np.testing.assert_array_equal(over_http.infer("odd", [sent], outputs=[asked]).as_numpy("y"), array)


def test_tritons_client_may_ask_with_no_rows(client: Any) -> None:
    sent = tensor(client, "x", "FP32", np.zeros((0, 2), np.float32))
    assert client.infer("echo_fp32", [sent]).as_numpy("y").shape == (0, 2)


def test_half_precisions_travel_as_json_numbers(pod: RunningPod) -> None:
    for kind in ("FP16", "BF16"):
        body = {"inputs": [{"name": "x", "datatype": kind, "shape": [1, 2], "data": [0.5, -3]}]}
        output = pod.infer(body, model=f"echo_{kind.lower()}").json()["outputs"][0]
        assert output == {"name": "y", "datatype": kind, "shape": [1, 2], "data": [0.5, -3.0]}


def test_several_tensors_and_free_axes(client: Any) -> None:
    for length in (1, 7):
        a = np.arange(3 * length, dtype=np.int64).reshape(3, length)
        b = np.array([10, 20, 30], np.int64)
        # Not in the model's order: tensors are found by name.
        result = client.infer("two", [tensor(client, "b", "INT64", b), tensor(client, "a", "INT64", a)])
        np.testing.assert_array_equal(result.as_numpy("sum"), a + b[:, None])
        assert result.as_numpy("text").ravel().tolist() == [str(n).encode() for n in a.ravel()]


def test_only_the_outputs_asked_for_come_back_in_their_order(client: Any) -> None:
    a, b = np.ones((1, 2), np.int64), np.ones(1, np.int64)
    asked = [words_of(client).InferRequestedOutput(name) for name in ("text", "sum")]
    inputs = [tensor(client, "a", "INT64", a), tensor(client, "b", "INT64", b)]
    response = client.infer("two", inputs, outputs=asked).get_response()
    outputs = response["outputs"] if isinstance(response, dict) else response.outputs
    names = [o["name"] if isinstance(o, dict) else o.name for o in outputs]
    assert names == ["text", "sum"]
    only = client.infer("two", inputs, outputs=asked[1:])
    assert only.as_numpy("text") is None


def test_binary_and_json_tensors_mix_in_one_request(over_http: Any) -> None:
    a, b = np.array([[1, 2]], np.int64), np.array([5], np.int64)
    asked = [
        triton_http.InferRequestedOutput("sum", binary_data=False),
        triton_http.InferRequestedOutput("text", binary_data=True),
    ]
    inputs = [tensor(over_http, "a", "INT64", a, binary_data=False), tensor(over_http, "b", "INT64", b)]
    result = over_http.infer("two", inputs, outputs=asked)
    np.testing.assert_array_equal(result.as_numpy("sum"), [[6, 7]])
    assert result.as_numpy("text").tolist() == [[b"1", b"2"]]


def test_the_request_id_comes_back(client: Any) -> None:
    sent = tensor(client, "input", "FP32", np.zeros((1, 4), np.float32))
    response = client.infer("credit_risk", [sent], request_id='a "quoted" id').get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == 'a "quoted" id'


def test_a_mistake_is_an_exception_that_says_what_is_wrong(client: Any) -> None:
    sent = tensor(client, "input", "FP32", np.zeros((1, 4), np.float32))
    with pytest.raises(InferenceServerException, match="credit_risk"):
        client.infer("nope", [sent])
    with pytest.raises(InferenceServerException, match="no version"):
        client.infer("credit_risk", [sent], model_version="9")
    with pytest.raises(InferenceServerException, match="does not fit"):
        client.infer("credit_risk", [tensor(client, "input", "FP32", np.zeros((1, 5), np.float32))])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(client: Any, algorithm: str) -> None:
    sent = tensor(client, "input", "FP32", np.zeros((8, 4), np.float32))
    name = "request_compression_algorithm" if words_of(client) is triton_http else "compression_algorithm"
    result = client.infer("credit_risk", [sent], **{name: algorithm})
    assert result.as_numpy("label").shape == (8,)


def test_large_tensors_cross_grpc_flow_control(over_grpc: Any) -> None:
    array = np.random.default_rng(0).standard_normal((600_000, 2)).astype(np.float32)
    result = over_grpc.infer("echo_fp32", [tensor(over_grpc, "x", "FP32", array)])
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_too_many_rows_are_refused_with_the_number_there_may_be(client: Any) -> None:
    sent = tensor(client, "input", "FP32", np.zeros((200_000, 4), np.float32))
    with pytest.raises(InferenceServerException, match=r"200000 rows.*at most 100 rows"):
        client.infer("limited", [sent])


def test_many_concurrent_grpc_calls_each_get_their_own_answer(over_grpc: Any) -> None:
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for n in range(300):
        sent = tensor(over_grpc, "x", "INT64", np.full((1, 2), n, np.int64))
        over_grpc.async_infer(
            "echo_int64", [sent], lambda result, error, n=n: answers.put((n, result, error))
        )
    for _ in range(300):
        n, result, error = answers.get(timeout=20)
        assert error is None
        assert result.as_numpy("y").tolist() == [[n, n]]


def test_a_stream_answers_each_message_and_an_error_does_not_end_it(pod: RunningPod) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{pod.port}") as client:
        client.start_stream(lambda result, error: answers.put(error or result.get_response().id))
        for n in range(5):
            sent = tensor(client, "x", "INT64", np.full((1, 2), n, np.int64))
            client.async_stream_infer("echo_int64" if n != 2 else "nope", [sent], request_id=str(n))
        got = [answers.get(timeout=10) for _ in range(5)]
        client.stop_stream()
    assert sorted(word for word in got if isinstance(word, str)) == ["0", "1", "3", "4"]
    assert sum(isinstance(word, InferenceServerException) for word in got) == 1


def test_a_model_can_be_unloaded_and_loaded_again(client: Any, manager: Any) -> None:
    def states() -> dict[str, str]:
        index = manager.get_model_repository_index()
        rows = (
            index if isinstance(index, list) else [{"name": m.name, "state": m.state} for m in index.models]
        )
        return {row["name"]: row["state"] for row in rows}

    sent = tensor(client, "input", "FP32", np.zeros((1, 4), np.float32))
    manager.unload_model("credit_risk")
    assert states()["credit_risk"] == "UNAVAILABLE"
    assert not client.is_model_ready("credit_risk")
    assert not client.is_server_ready(), "the pod does not answer what it was started for"
    with pytest.raises(InferenceServerException):
        client.infer("credit_risk", [sent])
    manager.load_model("credit_risk")
    assert client.is_server_ready()
    assert states()["credit_risk"] == "READY"
    assert client.infer("credit_risk", [sent]).as_numpy("label").shape == (1,)
    with pytest.raises(InferenceServerException):
        manager.load_model("nope")


def test_callers_of_models_do_not_manage_them(client: Any) -> None:
    named = [partial(each, "credit_risk") for each in (client.unload_model, client.load_model)]
    for call in (client.get_model_repository_index, *named):
        with pytest.raises(InferenceServerException, match="not managed here") as refused:
            call()
        assert refused.value.status() in ("404", "StatusCode.UNIMPLEMENTED")
    assert client.is_model_ready("credit_risk")


@pytest.mark.parametrize("managed", [False, True])
def test_the_repository_is_an_extension_only_where_it_is_managed(pod: RunningPod, managed: bool) -> None:
    port = pod.management_port if managed else pod.port
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert ("model_repository" in client.get_server_metadata().extensions) is managed
    answer = (pod.management if managed else pod.http).get("/v2").json()
    assert ("model_repository" in answer["extensions"]) is managed


def test_bundles_tell_grpc_callers_who_answered(pod: RunningPod) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        request = message("ModelInferRequest")(model_name="echo_int64")
        request.inputs.add(name="x", datatype="INT64", shape=[1, 2]).contents.int64_contents.extend([1, 2])
        answer, call = infer.with_call(request.SerializeToString())
        headers = dict(call.initial_metadata())
        assert headers["x-slipway-version"] == "1"
        assert len(headers["x-slipway-bundle"]) == 24
        assert message("ModelInferResponse").FromString(answer).outputs[0].shape == [1, 2]
