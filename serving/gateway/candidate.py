"""A candidate asked through Envoy, as its callers will be answered, while it has no traffic.

REST with binary tensors, so that every value arrives as it is. `x-slipway-arm: candidate` reaches the
candidate at any weight, and no verdict counts it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import orjson

from model_store.engines.datatypes import DATATYPES
from model_store.errors import Permanent, Retryable
from serving.gateway import api_keys, authentication, preview
from serving.gateway.router.base import TooManyRequests, TooManyRows
from serving.home import Home
from serving.types import Route

ARM = "x-slipway-arm"
_HEAD_LENGTH = "inference-header-content-length"
_LIMITED, _NOBODY = (httpx.codes.TOO_MANY_REQUESTS,), (httpx.codes.SERVICE_UNAVAILABLE,)
_AGAIN_SECONDS = 0.2
_RATE_LIMITED_SECONDS = 1.0
_TOKEN_SECONDS = 60
_LONGEST_WORDS = 300

Array = np.ndarray[Any, Any]
Rows = Mapping[str, Array]


class CandidateThroughEnvoy:
    """The candidate of `route`. It is let in as a client of its own where the model wants API keys."""

    def __init__(self, home: Home, route: Route, *, key: str = "") -> None:
        self._home, self._route = home, route
        self._headers = {ARM: "candidate", **({"x-api-key": key} if key else {})}
        self._url = f"{home.gateway_url}/v2/models/{route.service}/infer"
        self._timeout_seconds = route.settings.timeout_ms / 1000 + 5

    @contextmanager
    def opened(self) -> Iterator[CandidateThroughEnvoy]:
        """With a key of its own, which ends with the context, where one is wanted."""
        if not self._route.settings.api_keys:
            yield self
            return
        name = f"slipway-{secrets.token_hex(6)}"
        key = api_keys.add_key(self._home, name)
        try:
            authentication.publish(self._home)
            yield CandidateThroughEnvoy(self._home, self._route, key=key)
        finally:
            api_keys.remove(self._home, name)
            authentication.publish(self._home)

    def answer(self, rows: Rows, *, until: float) -> Rows:
        """As `serving.gateway.router.base.Candidate` says."""
        body, head = encoded(rows)
        headers = {**self._headers, _HEAD_LENGTH: str(head)}
        while True:
            answer = self._post(body, headers)
            if isinstance(answer, httpx.Response) and (found := self._answer_of(answer)) is not None:
                return found
            is_limited = isinstance(answer, httpx.Response) and answer.status_code in _LIMITED
            if time.monotonic() > until:
                raise (TooManyRequests if is_limited else Retryable)(
                    f"the candidate of {self._route.service} cannot be asked through the gateway: "
                    f"{_words(answer)}",
                    remedy="see whether Envoy and its pods run (`slipway status`)",
                )
            time.sleep(_RATE_LIMITED_SECONDS if is_limited else _AGAIN_SECONDS)

    def _post(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response | httpx.HTTPError:
        try:
            with httpx.Client(timeout=self._timeout_seconds, trust_env=False) as client:
                right = preview.token(self._home, self._route.service, seconds=_TOKEN_SECONDS)
                shown = {**headers, preview.TOKEN_HEADER: right}
                return client.post(self._url, content=body, headers=shown)
        except httpx.HTTPError as problem:
            return problem

    def _answer_of(self, answer: httpx.Response) -> Rows | None:
        """None where nobody has answered: Envoy does not know the candidate or the key yet, does not reach a
        pod, or lets nobody ask so fast.
        """
        if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise TooManyRows(_words(answer), remedy="raise serving.timeout_ms or serving.max_rows")
        if answer.headers.get(ARM) != "candidate" or answer.status_code in (*_LIMITED, *_NOBODY):
            return None
        if answer.status_code != httpx.codes.OK:
            raise Permanent(
                f"the candidate of {self._route.service} answers an evaluation row with {_words(answer)}",
                remedy="see the log of its pods (`slipway logs`), and release it again",
            )
        return decoded(answer.content, int(answer.headers.get(_HEAD_LENGTH, len(answer.content))))


def encoded(rows: Rows) -> tuple[bytes, int]:
    """A request's body that asks for binary answers, and how much of it is JSON."""
    blobs = {name: _bytes_of(array) for name, array in rows.items()}
    inputs = [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": array.shape,
            "parameters": {"binary_data_size": len(blobs[name])},
        }
        for name, array in rows.items()
    ]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return b"".join([head, *blobs.values()]), len(head)


def decoded(body: bytes, head: int) -> dict[str, Array]:
    """The outputs of an answer by name. Raises `Permanent` for what is none."""
    try:
        place, found = head, {}
        for output in orjson.loads(body[:head])["outputs"]:
            size = int(output["parameters"]["binary_data_size"])
            found[output["name"]] = _array_of(output["datatype"], output["shape"], body[place : place + size])
            place += size
        return found
    except (ValueError, KeyError, TypeError) as problem:
        raise Permanent(
            f"an answer is none of the Open Inference Protocol: {problem!r}",
            remedy="see what stands between the gateway and the pods",
        ) from problem


def datatype_of(array: Array) -> str:
    """Its name in the protocol; text is BYTES."""
    if array.dtype.kind in "OUS":
        return "BYTES"
    return next(one.name for one in DATATYPES.values() if one.dtype == array.dtype.newbyteorder("<"))


def _bytes_of(array: Array) -> bytes:
    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    texts = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel().tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _array_of(datatype: str, shape: list[int], blob: bytes) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(blob, DATATYPES[datatype].dtype).reshape(shape)
    texts, place = [], 0
    while place < len(blob):
        size = int.from_bytes(blob[place : place + 4], "little")
        texts.append(blob[place + 4 : place + 4 + size].decode())
        place += 4 + size
    return np.array(texts, dtype=object).astype(str).reshape(shape)


def _words(answer: httpx.Response | httpx.HTTPError) -> str:
    if isinstance(answer, httpx.HTTPError):
        return repr(answer)[:_LONGEST_WORDS]
    return f"{answer.status_code} {answer.text}"[:_LONGEST_WORDS]
