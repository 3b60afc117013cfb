"""Requests that differ only in their tensors' raw bytes are parsed once.

A client that sends binary tensors repeats everything else: names, shapes, datatypes, sizes. What was learnt
from one such request (which bytes are which tensor) holds for every other whose remaining bytes are equal,
because raw bytes cannot change how the rest is read: their places and lengths are part of the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from model_store.engines.signature import Signature
from serving.pod.codec.request import InferRequest

_REMEMBERED = 256
_COPY_UP_TO = 65_536
_LONGEST = 4096
_LAYOUTS = 8

Cuts = tuple[tuple[int, int], ...]


class RequestPlan(NamedTuple):
    """`cuts` are the tensors' places, in the signature's order, in a request of `length` bytes; `rest` is
    what the request is without them."""

    cuts: Cuts
    length: int
    request: InferRequest
    rest: bytes = b""

    def read(self, body: bytes | memoryview) -> InferRequest:
        """The request with this body's tensors. Small ones are copied: they may become cache keys."""
        view = None
        data: list[bytes | memoryview | list[bytes]] = []
        for start, end in self.cuts:
            if end - start <= _COPY_UP_TO:
                data.append(bytes(body[start:end]))
            else:
                view = memoryview(body) if view is None else view
                data.append(view[start:end])
        first = self.request
        return InferRequest(data, first.shapes, first.id, first.outputs, first.parameters)


def cuts_after(head: bytes, signature: Signature) -> Cuts:
    """Where the tensors are in a body whose JSON head has already been checked: after it, one by one."""
    places, at = {}, len(head)
    for entry in orjson.loads(head)["inputs"]:
        size = entry["parameters"]["binary_data_size"]
        places[entry["name"]] = (at, at + size)
        at += size
    return tuple(places[spec.name] for spec in signature.inputs)


def is_plannable(signature: Signature) -> bool:
    """Whether every input is raw bytes of a size its shape tells, valid whatever they are."""
    return all(spec.datatype.size and spec.datatype.name != "BOOL" for spec in signature.inputs)


class Plans:
    """Plans by everything that is not tensor bytes. Bounded: clients choose what is remembered."""

    def __init__(self) -> None:
        self._plans: dict[bytes, RequestPlan] = {}
        self._shapes: dict[tuple[int, Cuts], None] = {}

    def find(self, rest: bytes, length: int) -> RequestPlan | None:
        """For a front that knows which part is not tensors (REST's JSON head)."""
        plan = self._plans.get(rest)
        return plan if plan is not None and plan.length == length else None

    def find_by_shape(self, body: bytes | memoryview) -> RequestPlan | None:
        """For a front that does not (gRPC): try the layouts seen before with this length."""
        for length, cuts in self._shapes:
            if length == len(body):
                plan = self._plans.get(rest_of(body, cuts))
                if plan is not None and plan.length == length and plan.cuts == cuts:
                    return plan
        return None

    def keep(self, rest: bytes, plan: RequestPlan, *, by_shape: bool = False) -> bool:
        """Remember a plan; whether it was. Requests with an id are not worth it: the next one has another."""
        # Its own tensors are not needed again, and would keep the whole body.
        plan = plan._replace(request=plan.request._replace(data=[]))
        if plan.request.id or len(rest) > _LONGEST or len(self._plans) >= _REMEMBERED:
            return False
        if by_shape:
            if len(self._shapes) >= _LAYOUTS:
                return False
            self._shapes[plan.length, plan.cuts] = None
        self._plans[rest] = plan
        return True


def rest_of(body: bytes | memoryview, cuts: Cuts) -> bytes:
    """What remains of a body without its tensors."""
    parts: list[bytes | memoryview] = []
    at = 0
    for start, end in sorted(cuts):
        parts.append(body[at:start])
        at = end
    parts.append(body[at:])
    return b"\x00".join(parts)
