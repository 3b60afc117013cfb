"""`POST /v2/models/<m>[/versions/<v>]/infer`: body to call, outputs to body."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from blake3 import blake3

from model_store.engines.errors import ModelFault, Refused, TooLarge, status_of
from model_store.errors import SlipwayError
from serving.pod.answers import FROM_MEMORY
from serving.pod.call import BatchOutputs, Call
from serving.pod.codec.early import LARGE_BYTES, expect_not_too_large
from serving.pod.codec.plans import RequestPlan, cuts_after, is_plannable
from serving.pod.codec.request import InferRequest, read_request
from serving.pod.http.exchange import JSON, Exchange
from serving.pod.model import ServedModel
from serving.pod.urgency import (
    ENVOY_TIMEOUT_HEADER,
    PRIORITY_HEADER,
    TIMEOUT_HEADER,
    Priority,
    read_priority,
    read_timeout,
)

_GZIP_OR_ZLIB = 47
# Each costs a copy of what follows it.
_MOST_MEMBERS = 16
_PRIORITY_FIELD = b'"priority"'
_URGENCY = frozenset((PRIORITY_HEADER, TIMEOUT_HEADER, ENVOY_TIMEOUT_HEADER))
# Bytes of JSON from which remembering the parsed request beats parsing it again.
_WORTH_REMEMBERING = 2048


class HttpCall(Call):
    """A call that answers an exchange, in JSON or with binary tensors as its request asked."""

    __slots__ = ("exchange", "model", "request")

    def __init__(self, exchange: Exchange, model: ServedModel, request: InferRequest) -> None:
        super().__init__(request.data, request.shapes, model.signature)
        self.exchange = exchange
        self.model = model
        self.request = request

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self.exchange.headers

    @property
    def is_abandoned(self) -> bool:
        return self.exchange.is_abandoned

    def answered(self, outputs: BatchOutputs, first: int) -> None:
        try:
            body, headers = self._written(outputs, first)
        except Exception as error:
            # One answer that cannot be written must not keep its batch neighbours from theirs.
            self.failed(
                error if isinstance(error, SlipwayError) else ModelFault(f"cannot be written: {error}")
            )
            return
        try:
            self.model.record(self, 200, outputs, first)
            self.exchange.reply(body, headers=headers)
        except Exception:
            self.exchange.connection.broke(self.exchange)
            raise

    def failed(self, error: SlipwayError) -> None:
        try:
            self.model.record_failure(self, error)
            self.exchange.reply_error(error, headers=self.model.headers)
        except Exception:
            self.exchange.connection.broke(self.exchange)
            raise

    def _written(self, outputs: BatchOutputs, first: int) -> tuple[bytes, bytes]:
        request, model = self.request, self.model
        if request.outputs is None:
            body = model.writer.plain(outputs, first, self.rows, request.id)
            return body, b"%s%s%s" % (JSON, model.headers, self.source)
        head, blob = model.writer.chosen(outputs, first, self.rows, request.id, request.outputs)
        if not blob:
            return head, JSON + model.headers + self.source
        length = b"inference-header-content-length: %d\r\n" % len(head)
        return (
            head + blob,
            b"content-type: application/octet-stream\r\n" + length + model.headers + self.source,
        )


def infer(exchange: Exchange, model: ServedModel, max_body_bytes: int) -> None:
    """Start an inference; the exchange is answered now (a mistake) or when the model has computed."""
    try:
        if exchange.refusal is not None:
            raise exchange.refusal
        if model.would_shed and _is_shed_unread(exchange, model):
            raise model.shed_unread()
        request = _read(exchange, model, max_body_bytes)
        headers, parameters = exchange.headers, request.parameters
        priority, timeout = Priority.NORMAL, model.timeout_seconds
        if parameters or not _URGENCY.isdisjoint(headers):
            priority = read_priority(headers, parameters)
            timeout = read_timeout(headers, parameters, timeout)
        kept = model.quick_hits.answer(request) if model.quick_hits is not None else None
    except SlipwayError as error:
        model.metrics.finished(status_of(error))
        exchange.reply_error(error, headers=model.headers)
        return
    if kept is not None:
        exchange.reply(kept, headers=JSON + model.headers + FROM_MEMORY)
        return
    call = HttpCall(exchange, model, request)
    call.priority, call.timeout = priority, timeout
    model.infer(call)


def _is_shed_unread(exchange: Exchange, model: ServedModel) -> bool:
    """Whether this request would be shed once it is parsed: parsing it costs more than all the rest."""
    headers = exchange.headers
    if PRIORITY_HEADER not in headers and _PRIORITY_FIELD in _json_part(exchange):
        return False
    return model.refuses(read_priority(headers, {}))


def _json_part(exchange: Exchange) -> bytes:
    """Of a large body with binary tensors only what stands before them, where that is sure to be little."""
    length = exchange.headers.get(b"inference-header-content-length", b"")
    if type(exchange.body) is memoryview and length.isdigit() and int(length) <= LARGE_BYTES:
        return bytes(exchange.body[: int(length)])
    return exchange.plain


def find_refusal(
    model: ServedModel, headers: Mapping[bytes, bytes], start: bytes | memoryview, length: int
) -> TooLarge | None:
    """What there is to say against a body of `length` bytes that begins so. Of a coded one: nothing yet."""
    if b"content-encoding" in headers:
        return None
    try:
        header_length = _header_length(headers)
        if header_length is not None and model.plans.find(bytes(start[:header_length]), length) is not None:
            return None
        expect_not_too_large(model.signature, start, length, header_length)
    except TooLarge as error:
        return error
    except Refused:
        return None
    return None


def _read(exchange: Exchange, model: ServedModel, max_body_bytes: int) -> InferRequest:
    header_length = _header_length(exchange.headers)
    if header_length is not None and b"content-encoding" not in exchange.headers:
        return _read_binary(model, exchange.body, header_length)
    body = plain_body(exchange, max_body_bytes)
    if len(body) > LARGE_BYTES:
        expect_not_too_large(model.signature, body, len(body), header_length)
    if header_length is not None:
        return _read_binary(model, body, header_length)
    answers = model.answers
    if len(body) < _WORTH_REMEMBERING or answers is None or answers.bodies is None:
        return read_request(model.signature, body, None)
    digest = blake3(body).digest()
    request = answers.bodies.get(digest)
    if request is None:
        request = read_request(model.signature, body, None)
        answers.bodies.put(digest, request)
    return request


def _read_binary(model: ServedModel, body: bytes | memoryview, header_length: int) -> InferRequest:
    head = bytes(body[:header_length])
    plan = model.plans.find(head, len(body))
    if plan is not None:
        return plan.read(body)
    if len(body) > LARGE_BYTES:
        expect_not_too_large(model.signature, body, len(body), header_length)
    request = read_request(model.signature, body, header_length)
    if is_plannable(model.signature) and all(type(part) is memoryview for part in request.data):
        model.plans.keep(head, RequestPlan(cuts_after(head, model.signature), len(body), request))
    return request


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise Refused(
            f"Inference-Header-Content-Length is {value[:40]!r}",
            remedy="set it to the length of the JSON part in bytes",
        )
    return int(value)


def plain_body(exchange: Exchange, max_body_bytes: int) -> bytes:
    """The body without its content-encoding. Raises `Refused` for one that nobody reads."""
    encoding = exchange.headers.get(b"content-encoding", b"identity").lower()
    if encoding == b"identity":
        return exchange.plain
    if encoding not in (b"gzip", b"deflate"):
        raise Refused(
            f"content-encoding {encoding[:40]!r} is not known",
            remedy="send gzip, deflate or no encoding",
            status=415,
        )
    return _inflated(exchange.plain, max_body_bytes)


def _inflated(body: bytes, limit: int) -> bytes:
    """All members of a gzip body, one after the other (RFC 1952, 2.2)."""
    parts, room = list[bytes](), limit
    while body:
        if len(parts) == _MOST_MEMBERS:
            raise Refused(
                f"the body is compressed in more than {_MOST_MEMBERS} members", remedy="compress it as one"
            )
        reader = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            # One byte more than there is room for tells a body that just fits from one that does not.
            parts.append(reader.decompress(body, room + 1))
        except zlib.error as error:
            raise Refused(
                f"the body is not what content-encoding says: {error}", remedy="send it plain"
            ) from error
        room -= len(parts[-1])
        if room < 0:
            raise Refused(
                f"the body inflates to more than {limit} bytes", remedy="send fewer rows", status=413
            )
        if not reader.eof:
            raise Refused("the compressed body is cut short", remedy="send all of it")
        body = reader.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)
