"""httpx with HTTP/2 and nothing else (prior knowledge). argv: host:port. Writes what it was answered."""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np

BASE = f"http://{sys.argv[1]}/v2"
INFER = BASE + "/models/echo_fp32/infer"


def body(values: list[float], datatype: str = "FP32") -> dict[str, Any]:
    shape = [len(values) // 2, 2]
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": values}]}


def told(answer: httpx.Response) -> list[Any]:
    return [answer.http_version, answer.status_code, answer.json()]


async def main() -> None:
    async with httpx.AsyncClient(http1=False, http2=True, timeout=20) as client:
        found: dict[str, Any] = {
            "live": told(await client.get(BASE + "/health/live")),
            "ready": told(await client.get(BASE + "/health/ready")),
            "server": told(await client.get(BASE)),
            "model": told(await client.get(BASE + "/models/echo_fp32")),
            "infer": told(await client.post(INFER, json=body([1, 2]))),
            "unknown": told(await client.post(BASE + "/models/nobody/infer", json=body([1, 2]))),
            "wrong": told(await client.post(INFER, json=body([1, 2], "FP64"))),
        }
        head = {
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
            ],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(head).encode()
        length = {"inference-header-content-length": str(len(text))}
        sent = text + np.array([1, 2], np.float32).tobytes()
        answer = await client.post(INFER, content=sent, headers=length)
        at = int(answer.headers["inference-header-content-length"])
        values = np.frombuffer(answer.content[at:], np.float32).tolist()
        found["binary"] = [answer.http_version, answer.status_code, values]
        large = await client.post(INFER, json=body([0.5] * 90_000))
        found["large"] = [large.http_version, large.status_code, len(large.json()["outputs"][0]["data"])]
        many = await asyncio.gather(*(client.post(INFER, json=body([n, n])) for n in range(50)))
        found["many"] = [each.json()["outputs"][0]["data"][0] for each in many]
    sys.stdout.write(json.dumps(found))


asyncio.run(main())
