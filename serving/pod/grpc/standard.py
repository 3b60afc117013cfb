"""grpc.health.v1: what Kubernetes' gRPC probes and gRPC's own load balancers ask.

A service is the pod ("", or `inference.GRPCInferenceService`) or a model by its name.
Source: https://grpc.github.io/grpc/core/md_doc_health-checking.html

grpc.reflection: what services there are and what their messages look like, for clients like grpcurl.

Source: https://grpc.github.io/grpc/core/md_doc_server-reflection.html. v1 and v1alpha differ only in name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from model_store.engines.errors import Refused
from model_store.errors import SlipwayError
from serving.pod.grpc.messages import HEALTH, PACKAGE, POOL, message, services
from serving.pod.grpc.status import INVALID_ARGUMENT, NOT_FOUND
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

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        if stream.has_sent_headers:
            raise Refused("a second message on a watch", remedy="open a call for each")
        try:
            service = _Request.FromString(bytes(payload)).service
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


class ReflectionMethod:
    """ServerReflectionInfo of one version: an answer for each message, until the client has no more."""

    # A client may hold its stream open as long as it likes.
    expects_a_message = False
    began = None

    def __init__(self, package: str) -> None:
        self._request = message("ServerReflectionRequest", package)
        self._response = message("ServerReflectionResponse", package)

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        try:
            request = self._request.FromString(bytes(payload))
        except DecodeError as error:
            raise Refused("the message is no reflection request", remedy="use grpc.reflection's") from error
        response = self._response(valid_host=request.host, original_request=request)
        _answer(response, request)
        stream.open_messages -= 1
        stream.send(response.SerializeToString())

    def input_ended(self, stream: Stream) -> None:
        if not stream.is_answered:
            stream.finish()


def _answer(response: Any, request: Any) -> None:
    kind = request.WhichOneof("message_request")
    if kind == "list_services":
        for name in services():
            response.list_services_response.service.add(name=name)
        return
    try:
        if kind == "file_by_filename":
            _add_files(response, POOL.FindFileByName(request.file_by_filename))
        elif kind == "file_containing_symbol":
            _add_files(response, POOL.FindFileContainingSymbol(request.file_containing_symbol))
        elif kind == "all_extension_numbers_of_type":
            # There are no extensions, but the type must be one of ours.
            name = POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
            response.all_extension_numbers_response.base_type_name = name
        else:
            _refuse(response, INVALID_ARGUMENT if kind is None else NOT_FOUND, "no extensions here")
    except KeyError:
        _refuse(response, NOT_FOUND, f"not here: {str(getattr(request, kind))[:200]}")


def _add_files(response: Any, file: FileDescriptor) -> None:
    response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)


def _refuse(response: Any, code: int, words: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = words
