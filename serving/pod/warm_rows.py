"""The bundle's warm rows as requests, and a pod that asks them of itself before it says that it is ready.

By then kernels are warm (`serving.pod.warmup`). What that leaves cold is the way there: connections, parsing,
the first batches of one. And a pod that cannot answer its own warm rows must not meet a user's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from model_store.errors import Permanent

_SENT_AT_MOST = 32
_ANSWER_SECONDS = 30.0


def requests(bundle: Path, manifest: dict[str, Any]) -> Iterator[bytes]:
    """One Open Inference Protocol body a row."""
    if not manifest.get("warmup"):
        return
    with np.load(bundle / manifest["warmup"], allow_pickle=False) as stored:
        rows = {tensor["name"]: stored[tensor["name"]] for tensor in manifest["inputs"]}
    count = min((len(array) for array in rows.values()), default=0)
    for row in range(min(count, _SENT_AT_MOST)):
        inputs = [_tensor(tensor, rows[tensor["name"]][row : row + 1]) for tensor in manifest["inputs"]]
        yield orjson.dumps({"inputs": inputs})


async def ask_itself(bundle: Path, port: int) -> int:
    """Send this pod the warm rows of one of its bundles, as a caller does. How many there were.

    Raises `Permanent` for an answer that is no 200: it would give users the same.
    """
    manifest = orjson.loads((bundle / "manifest.json").read_bytes())
    name, bodies = manifest["model"]["name"], list(requests(bundle, manifest))
    if not bodies:
        return 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for body in bodies:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await _ask(reader, writer, name, manifest["model"]["version"], body)
    except TimeoutError as error:
        raise _failed(name, f"with nothing within {_ANSWER_SECONDS:.0f} s") from error
    finally:
        writer.close()
    return len(bodies)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, version: int, body: bytes
) -> None:
    writer.write(
        b"POST /v2/models/%s/versions/%d/infer HTTP/1.1\r\nhost: localhost\r\nx-slipway-warmup: 1\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (name.encode(), version, len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    answer = await reader.readexactly(int(headers.get("content-length", 0)))
    if status.split(" ")[1] != "200":
        raise _failed(name, f"with {status.split(' ')[1]}: {answer.decode(errors='replace')[:200]}")


def _failed(name: str, how: str) -> Permanent:
    return Permanent(
        f"{name} answered a warm row {how}", remedy="the version cannot serve the rows it was gated on"
    )


def _tensor(tensor: dict[str, Any], value: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = [str(each) for each in value.ravel()] if tensor["datatype"] == "BYTES" else value.ravel().tolist()
    return {
        "name": tensor["name"],
        "datatype": tensor["datatype"],
        "shape": list(value.shape),
        "data": data,
    }
