"""grpc.health.v1: what Kubernetes' gRPC probes and gRPC's own load balancers ask.

A service is the pod ("", or `inference.GRPCInferenceService`) or a model by its name.
Source: https://grpc.github.io/grpc/core/md_doc_health-checking.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from model_store.engines.errors import Refused
from model_store.errors import SlipwayError
from serving.pod.grpc.messages import HEALTH, PACKAGE, message
from serving.pod.grpc.stream import Stream
from serving.pod.repository import Repository

_Request = message("HealthCheckRequest", HEALTH)
_Response = message("HealthCheckResponse", HEALTH)
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
_POD = ("", f"{PACKAGE}.GRPCInferenceService")
_SECONDS_BETWEEN_LOOKS = 0.25


class Health:
    """What is served. `is_ready` is the pod's."""

    def __init__(self, repository: Repository, *, is_ready: Callable[[], bool]) -> None:
        self._repository, self._is_ready = repository, is_ready

    def check(self, request: Any) -> Any:
        """Raises `Refused` (NOT_FOUND) for what is no service here."""
        if request.service in _POD:
            return _Response(status=_SERVING if self._is_ready() else _NOT_SERVING)
        entry = self._repository.find(request.service, None)
        return _Response(status=_SERVING if entry.is_ready else _NOT_SERVING)

    def status(self, service: str) -> int:
        """For `Watch`, which says SERVICE_UNKNOWN and waits for it."""
        try:
            return int(self.check(_Request(service=service)).status)
        except SlipwayError:
            return _UNKNOWN


class WatchMethod:
    """Watch: the status now, and again whenever it has changed, until the client leaves or the pod does."""

    expects_a_message = False
    began = None

    def __init__(self, health: Health) -> None:
        self._health = health
        self._tasks: set[asyncio.Task[None]] = set()

    def message(self, stream: Stream, payload: bytes) -> None:
        if stream.has_sent_headers:
            raise Refused("a second message on a watch", remedy="open a call for each")
        try:
            service = _Request.FromString(payload).service
        except DecodeError as error:
            raise Refused("the message is no HealthCheckRequest", remedy="use grpc.health.v1's") from error
        status = self._say(stream, service)
        # Nothing is owed from here on: a pod that leaves does not wait for whoever watches it.
        stream.open_messages -= 1
        task = asyncio.get_running_loop().create_task(self._follow(stream, service, status))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def input_ended(self, stream: Stream) -> None:
        if not stream.has_sent_headers and not stream.is_answered:
            stream.reply_error(Refused("no message came", remedy="send one"))

    def _say(self, stream: Stream, service: str) -> int:
        status = self._health.status(service)
        stream.send(_Response(status=status).SerializeToString())
        return status

    async def _follow(self, stream: Stream, service: str, said: int) -> None:
        while not stream.is_abandoned and not stream.is_answered:
            if stream.connection.is_half_closed:
                stream.finish()
            elif self._health.status(service) != said:
                said = self._say(stream, service)
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
