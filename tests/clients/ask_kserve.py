"""KServe's own clients, as their users have them. argv: host:port. Writes what each call gave."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from grpc import RpcError
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ADDRESS = sys.argv[1]
BASE = f"http://{ADDRESS}"
TENSORS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "INT64": np.array([[2**53 + 1, -(2**63)]], np.int64),
    "FP16": np.array([[0.5, -65504]], np.float16),
    "FP32": np.array([[0.1, -3e38]], np.float32),
    "FP64": np.array([[0.1, -1e300]], np.float64),
    "BYTES": np.array([["a", "ü€"]], dtype=object),
}
ODD = np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)
found: dict[str, Any] = {}


async def note(name: str, ask: Callable[[], Awaitable[Any]]) -> None:
    try:
        found[name] = await ask()
    except RpcError as error:
        found[name] = f"{error.code().name}: {error.details()}"
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"


def tensor(datatype: str, array: np.ndarray, binary: bool) -> InferInput:
    made = InferInput(name="x", shape=list(array.shape), datatype=datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def request(model: str, datatype: str, array: np.ndarray, binary: bool, **more: Any) -> InferRequest:
    return InferRequest(model_name=model, infer_inputs=[tensor(datatype, array, binary)], **more)


def told(response: Any) -> Any:
    output = response.outputs[0].as_numpy()
    values = [v.decode() if isinstance(v, bytes) else v for v in output.ravel().tolist()]
    return [str(v) if v != v or v in (float("inf"), float("-inf")) else v for v in values], list(output.shape)


async def rest() -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    await note("rest live", lambda: client.is_server_live(BASE))
    await note("rest ready", lambda: client.is_server_ready(BASE))
    await note("rest model ready", lambda: client.is_model_ready(BASE, "echo_fp32"))
    await note("rest no model ready", lambda: client.is_model_ready(BASE, "nobody"))

    async def infer(asked: InferRequest) -> Any:
        return told(await client.infer(BASE, asked, model_name=asked.model_name))

    for datatype, array in TENSORS.items():
        for binary in (True, False):
            if datatype == "FP16" and not binary:
                continue  # the client itself refuses FP16 in JSON
            wish = {"parameters": {"binary_data_output": binary}}
            asked = request(f"echo_{datatype.lower()}", datatype, array, binary, **wish)
            await note(f"rest {datatype} {'binary' if binary else 'json'}", lambda asked=asked: infer(asked))
    outputs = [RequestedOutput("y", parameters={"binary_data": True})]
    asked = request("echo_fp32", "FP32", TENSORS["FP32"], True, request_outputs=outputs)
    await note("rest chosen output", lambda: infer(asked))
    await note("rest odd", lambda: infer(request("odd", "FP32", ODD, True)))
    await note(
        "rest odd json", lambda: infer(request("odd", "FP32", ODD[:1, ::-1].copy() * 0 + np.nan, False))
    )
    empty = np.zeros((0, 2), np.float32)
    for binary in (True, False):
        name = f"rest no rows {'binary' if binary else 'json'}"
        await note(name, lambda binary=binary: infer(request("echo_fp32", "FP32", empty, binary)))
    await note("rest unknown", lambda: infer(request("nobody", "FP32", ODD, True)))
    await note("rest wrong", lambda: infer(request("echo_int64", "FP32", ODD, True)))
    await client.close()


async def grpc() -> None:
    client = InferenceGRPCClient(ADDRESS, use_ssl=False, retries=0)
    await note("grpc live", client.is_server_live)
    await note("grpc ready", client.is_server_ready)
    await note("grpc model ready", lambda: client.is_model_ready("echo_fp32"))
    await note("grpc no model ready", lambda: client.is_model_ready("nobody"))

    async def infer(asked: InferRequest) -> Any:
        return told(await client.infer(asked))

    for datatype, array in TENSORS.items():
        for binary in (True, False):
            if datatype == "FP16" and not binary:
                continue
            asked = request(f"echo_{datatype.lower()}", datatype, array, binary)
            await note(f"grpc {datatype} {'raw' if binary else 'typed'}", lambda asked=asked: infer(asked))
    await note("grpc odd", lambda: infer(request("odd", "FP32", ODD, True)))
    await note(
        "grpc version", lambda: infer(request("echo_fp32", "FP32", TENSORS["FP32"], True, model_version="1"))
    )
    await note("grpc unknown", lambda: infer(request("nobody", "FP32", ODD, True)))
    await note("grpc wrong", lambda: infer(request("echo_int64", "FP32", ODD, True)))
    await client.close()


async def main() -> None:
    await rest()
    await grpc()


asyncio.run(main())
sys.stdout.write(json.dumps(found))
