"""ModelInfer and ModelStreamInfer: messages to calls, outputs to messages."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from model_store.engines.errors import ModelFault, Refused, TooLarge, status_of
from model_store.errors import SlipwayError
from serving.pod.call import BatchOutputs, Call
from serving.pod.codec.early import LARGE_BYTES, expect_shape
from serving.pod.codec.plans import Plans, RequestPlan, is_plannable, rest_of
from serving.pod.codec.request import InferRequest
from serving.pod.grpc.early import beginning
from serving.pod.grpc.header_blocks import Headers, header_fields, literal_block
from serving.pod.grpc.messages import message
from serving.pod.grpc.status import read_timeout_header
from serving.pod.grpc.stream import Stream
from serving.pod.grpc.tensors import MessageWriter, cuts_of, read_message
from serving.pod.model import ServedModel
from serving.pod.repository import Repository
from serving.pod.urgency import (
    ENVOY_TIMEOUT_HEADER,
    PRIORITY_HEADER,
    TIMEOUT_HEADER,
    read_priority,
    read_timeout,
)

ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")

_URGENCY = frozenset((PRIORITY_HEADER, TIMEOUT_HEADER, ENVOY_TIMEOUT_HEADER, b"grpc-timeout"))
# Of a stream's headers; the others limit the whole stream, which may stay open for days.
_MESSAGE_URGENCY = (PRIORITY_HEADER, TIMEOUT_HEADER)


class Written:
    """How one model's answers are written in gRPC: made when first asked for, kept with the model."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self.writer = MessageWriter(model.name, model.version, model.signature)
        self.fields = header_fields(model.headers)
        self._blocks: dict[bytes, bytes] = {}

    def headers(self, source: bytes) -> bytes:
        """The response's header block; `source` is the call's."""
        block = self._blocks.get(source)
        if block is None:
            content_type = (b"content-type", b"application/grpc")
            block = literal_block([content_type, *self.fields, *header_fields(source)], status_200=True)
            self._blocks[source] = block
        return block


class GrpcCall(Call):
    """A call that answers a stream: with the one reply of a unary call, or one of many of a streamed one."""

    __slots__ = ("request", "stream", "written")

    def __init__(self, stream: Stream, written: Written, request: InferRequest) -> None:
        super().__init__(request.data, request.shapes, written.model.signature)
        self.stream, self.written, self.request = stream, written, request

    @property
    def headers(self) -> Headers:
        return self.stream.headers

    @property
    def is_abandoned(self) -> bool:
        return self.stream.is_abandoned

    def answered(self, outputs: BatchOutputs, first: int) -> None:
        try:
            body = self.written.writer.write(outputs, first, self.rows, self.request)
        except Exception as error:
            self.failed(ModelFault(f"the answer cannot be written: {error}"))
            return
        try:
            self.written.model.record(self, 200, outputs, first)
            self.reply(body)
        except Exception:
            self.stream.broke()
            raise

    def failed(self, error: SlipwayError) -> None:
        try:
            self.written.model.record_failure(self, error)
            self.reply_error(error)
        except Exception:
            self.stream.broke()
            raise

    def reply(self, body: bytes) -> None:
        self.stream.reply(body, self.written.headers(self.source))

    def reply_error(self, error: SlipwayError) -> None:
        self.stream.reply_error(error, self.written.fields)


class StreamedCall(GrpcCall):
    """One message of ModelStreamInfer: an error is a message too and does not end the stream."""

    __slots__ = ()

    def reply(self, body: bytes) -> None:
        response = ModelStreamInferResponse(infer_response=ModelInferResponse.FromString(body))
        self.stream.send(response.SerializeToString())
        _closed_one(self.stream)

    def reply_error(self, error: SlipwayError) -> None:
        _send_stream_error(self.stream, self.request.id, error)


class InferMethod:
    """ModelInfer."""

    expects_a_message = True

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._written: dict[ServedModel, Written] = {}
        # Requests whose bytes but the tensors' are known, and the models they are for.
        self._plans = Plans()
        self._planned: dict[bytes, Written] = {}
        self._generation = repository.generation

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        if stream.open_messages > 1:
            raise Refused("a second message on a unary call", remedy="open a call for each")
        written, request = self.read(payload)
        written.model.infer(_urgent(GrpcCall(stream, written, request), stream.headers))

    def input_ended(self, stream: Stream) -> None:
        if not stream.open_messages and not stream.is_answered:
            stream.reply_error(Refused("no message came", remedy="send one"))

    def began(self, start: bytes, length: int) -> None:
        """A message of `length` bytes begins so. Raises `TooLarge` where the rest need not come."""
        found = beginning(start)
        try:
            model = self._repository.find(found.model, found.version or None).model
        except Refused:
            # Said, and counted, once the message is read.
            return
        if model is None:
            return
        try:
            for shape in found.shapes:
                expect_shape(model.signature, shape, length, as_json=False)
        except TooLarge as error:
            model.metrics.finished(status_of(error))
            raise

    def read(self, payload: bytes | memoryview) -> tuple[Written, InferRequest]:
        """Raises `Refused` for what is not a request of a model here, or asks for too much."""
        if self._generation != self._repository.generation:
            self._generation, self._plans, self._planned = self._repository.generation, Plans(), {}
        plan = self._plans.find_by_shape(payload)
        if plan is not None:
            return self._planned[plan.rest], plan.read(payload)
        payload = bytes(payload)
        if len(payload) > LARGE_BYTES:
            self.began(payload, len(payload))
        found = _parsed(payload)
        model = self._repository.asked(found.model_name, found.model_version or None)
        try:
            request = read_message(model.signature, found)
        except SlipwayError as error:
            model.metrics.finished(status_of(error))
            raise
        written = self._written_for(model)
        self._plan(payload, found, written, request)
        return written, request

    def _plan(self, payload: bytes, found: Any, written: Written, request: InferRequest) -> None:
        signature = written.model.signature
        cuts = cuts_of(payload, found, signature) if is_plannable(signature) else None
        if cuts is not None:
            rest = rest_of(payload, cuts)
            if self._plans.keep(rest, RequestPlan(cuts, len(payload), request, rest), by_shape=True):
                self._planned[rest] = written

    def _written_for(self, model: ServedModel) -> Written:
        written = self._written.get(model)
        if written is None:
            loaded = set(self._repository.models)
            self._written = {known: kept for known, kept in self._written.items() if known in loaded}
            written = self._written[model] = Written(model)
        return written


class StreamInferMethod:
    """ModelStreamInfer: answers leave as they are computed, each with its request's id."""

    # A stream may be opened long before there is something to ask.
    expects_a_message = False
    # Its errors are messages, which have the whole message's id.
    began = None

    def __init__(self, repository: Repository) -> None:
        self._single = InferMethod(repository)

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        try:
            written, request = self._single.read(payload)
            call = _urgent(StreamedCall(stream, written, request), _of_each_message(stream.headers))
        except SlipwayError as error:
            _send_stream_error(stream, _id_of(bytes(payload)), error)
            return
        written.model.infer(call)

    def input_ended(self, stream: Stream) -> None:
        if not stream.open_messages and not stream.is_answered:
            stream.finish()


def _parsed(payload: bytes) -> Any:
    try:
        return ModelInferRequest.FromString(payload)
    except DecodeError as error:
        raise Refused("the message is not a ModelInferRequest", remedy="use the protocol's") from error


def _id_of(payload: bytes) -> str:
    """As far as it can be told: the message may be anything."""
    try:
        return str(ModelInferRequest.FromString(payload).id)
    except DecodeError:
        return ""


def _of_each_message(headers: Headers) -> Headers:
    return {name: headers[name] for name in _MESSAGE_URGENCY if name in headers}


def _urgent(call: GrpcCall, headers: Headers) -> GrpcCall:
    """Raises `Refused`, counted, when the headers or parameters mean nothing."""
    model, parameters = call.written.model, call.request.parameters
    call.timeout = model.timeout_seconds
    if parameters or not _URGENCY.isdisjoint(headers):
        limit = min(model.timeout_seconds, read_timeout_header(headers.get(b"grpc-timeout")))
        try:
            call.priority = read_priority(headers, parameters)
            call.timeout = read_timeout(headers, parameters, limit)
        except SlipwayError as error:
            model.metrics.finished(status_of(error))
            raise
    return call


def _send_stream_error(stream: Stream, request_id: str, error: SlipwayError) -> None:
    response = ModelStreamInferResponse(error_message=f"{error.problem} ({error.remedy})")
    response.infer_response.id = request_id
    stream.send(response.SerializeToString())
    _closed_one(stream)


def _closed_one(stream: Stream) -> None:
    stream.open_messages -= 1
    if stream.open_messages or stream.is_answered:
        return
    if stream.input_ended:
        stream.finish()
    elif stream.connection.is_draining:
        stream.leave_if_quiet()
