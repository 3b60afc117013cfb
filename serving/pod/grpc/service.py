"""The methods of the services there are: inference, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import DecodeError

from model_store.engines.errors import ModelFault, Refused
from model_store.errors import SlipwayError
from serving.pod.grpc.header_blocks import Headers
from serving.pod.grpc.infer import InferMethod, StreamInferMethod
from serving.pod.grpc.messages import HEALTH, PACKAGE, REFLECTIONS, message
from serving.pod.grpc.standard import Health, ReflectionMethod, WatchMethod
from serving.pod.grpc.stream import Stream
from serving.pod.metadata import VERSION, extensions, model_config, model_metadata, repository_index
from serving.pod.repository import Repository
from serving.pod.statistics import model_statistics

if TYPE_CHECKING:
    from serving.pod.grpc.connection import GrpcConnection

log = logging.getLogger("slipway.pod")

_ServerMetadata = message("ServerMetadataResponse")
_ModelMetadata = message("ModelMetadataResponse")
_ModelConfig = message("ModelConfigResponse")
_Statistics = message("ModelStatisticsResponse")
_Index = message("RepositoryIndexResponse")


class Method(Protocol):
    """What a stream does with what arrives on it. `expects_a_message`: one is due as soon as it is opened."""

    expects_a_message: bool

    @property
    def began(self) -> Callable[[bytes, int], None] | None:
        """Told how a large message begins and its length, where that may be enough to refuse it."""
        ...

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        """One whole message arrived. Raises `SlipwayError` to end the stream with its status."""
        ...

    def input_ended(self, stream: Stream) -> None:
        """The client sends no more."""
        ...


class UnaryMethod:
    """A method answered from one message, at once or by a coroutine."""

    expects_a_message = True
    began = None

    def __init__(self, request: str, answer: Callable[[Any], Any], package: str = PACKAGE) -> None:
        self._request, self._answer = message(request, package), answer
        self._tasks: set[asyncio.Task[None]] = set()

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        if stream.open_messages > 1:
            raise Refused("a second message on a unary call", remedy="open a call for each")
        try:
            request = self._request.FromString(bytes(payload))
        except DecodeError as error:
            raise Refused(
                "the message is not the protobuf it should be", remedy="use the protocol's"
            ) from error
        answer = self._answer(request)
        if asyncio.iscoroutine(answer):
            task = asyncio.get_running_loop().create_task(_later(stream, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            stream.reply(answer.SerializeToString())

    def input_ended(self, stream: Stream) -> None:
        if not stream.open_messages and not stream.is_answered:
            stream.reply_error(Refused("no message came", remedy="send one"))


class RefusedMethod:
    """For what is no method of the service, or not for this caller."""

    expects_a_message = True
    began = None

    def __init__(self, error: SlipwayError) -> None:
        self._error = error

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        raise self._error

    def input_ended(self, stream: Stream) -> None:
        if not stream.is_answered:
            stream.reply_error(self._error)


class Service:
    """Finds a stream's method by its path.

    `managed_at` says where the model repository is managed instead; None: here.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        is_ready: Callable[[], bool],
        is_alive: Callable[[], bool],
        managed_at: str | None,
    ) -> None:
        self._repository, self._is_ready, self._is_alive = repository, is_ready, is_alive
        self._extensions = extensions(manages=managed_at is None)
        managing = self._managing()
        if managed_at is not None:
            elsewhere = Refused("the model repository is not managed here", remedy=managed_at, status=501)
            managing = dict.fromkeys(managing, RefusedMethod(elsewhere))
        inference = {**self._inference(), **managing}
        methods = {f"/{PACKAGE}.GRPCInferenceService/{name}": method for name, method in inference.items()}
        health = Health(repository, is_ready=is_ready)
        methods[f"/{HEALTH}.Health/Check"] = UnaryMethod("HealthCheckRequest", health.check, HEALTH)
        methods[f"/{HEALTH}.Health/Watch"] = WatchMethod(health)
        for package in REFLECTIONS:
            methods[f"/{package}.ServerReflection/ServerReflectionInfo"] = ReflectionMethod(package)
        self._methods = {path.encode(): method for path, method in methods.items()}
        self._known = ", ".join(sorted(methods))

    def _inference(self) -> dict[str, Method]:
        return {
            "ServerLive": UnaryMethod(
                "ServerLiveRequest", lambda _: message("ServerLiveResponse")(live=self._is_alive())
            ),
            "ServerReady": UnaryMethod("ServerReadyRequest", self._ready),
            "ModelReady": UnaryMethod("ModelReadyRequest", self._model_ready),
            "ServerMetadata": UnaryMethod("ServerMetadataRequest", self._server_metadata),
            "ModelMetadata": UnaryMethod("ModelMetadataRequest", self._model_metadata),
            "ModelConfig": UnaryMethod("ModelConfigRequest", self._model_config),
            "ModelStatistics": UnaryMethod("ModelStatisticsRequest", self._model_statistics),
            "ModelInfer": InferMethod(self._repository),
            "ModelStreamInfer": StreamInferMethod(self._repository),
        }

    def _managing(self) -> dict[str, Method]:
        return {
            "RepositoryIndex": UnaryMethod("RepositoryIndexRequest", self._index),
            "RepositoryModelLoad": UnaryMethod("RepositoryModelLoadRequest", self._load),
            "RepositoryModelUnload": UnaryMethod("RepositoryModelUnloadRequest", self._unload),
        }

    def open(self, connection: GrpcConnection, number: int, headers: Headers, window: int) -> Stream:
        """See `serving.pod.connections.Calls`."""
        return Stream(connection, number, headers, self.method(headers), window)

    def method(self, headers: Headers) -> Method:
        """The method a stream's headers ask for; a refusing one for what there is not."""
        path = headers.get(b":path", b"")
        found = self._methods.get(path)
        if found is not None:
            return found
        asked = path[:100].decode("ascii", "replace")
        return RefusedMethod(Refused(f"no method {asked}", remedy=f"call one of {self._known}", status=501))

    def _ready(self, _: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._is_ready())

    def _server_metadata(self, _: Any) -> Any:
        return _ServerMetadata(name="slipway", version=VERSION, extensions=self._extensions)

    def _model_ready(self, request: Any) -> Any:
        entry = self._repository.find(request.name, request.version or None)
        return message("ModelReadyResponse")(ready=entry.is_ready)

    def _model_metadata(self, request: Any) -> Any:
        model = self._repository.loaded(request.name, request.version or None)
        versions = [e.version for e in self._repository.entries if e.name == request.name and e.model]
        return _ModelMetadata(**model_metadata(model, versions))

    def _model_config(self, request: Any) -> Any:
        model = self._repository.loaded(request.name, request.version or None)
        return _ModelConfig(config=model_config(model))

    def _model_statistics(self, request: Any) -> Any:
        found = self._repository.described(request.name, request.version or None)
        return _Statistics(model_stats=[model_statistics(entry) for entry in found])

    def _index(self, request: Any) -> Any:
        return _Index(models=repository_index(self._repository, only_ready=request.ready))

    async def _load(self, request: Any) -> Any:
        await self._repository.load(request.model_name)
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any) -> Any:
        await self._repository.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()


async def _later(stream: Stream, answer: Coroutine[Any, Any, Any]) -> None:
    try:
        try:
            found = await answer
        except SlipwayError as error:
            stream.reply_error(error)
        except Exception as error:
            stream.reply_error(ModelFault(f"{type(error).__name__}: {error}"))
        else:
            stream.reply(found.SerializeToString())
    except Exception:
        log.exception("a gRPC request broke the pod's own code")
        stream.broke()
