"""`POST /v2/models/<m>[/versions/<v>]/infer`: body to call, outputs to body."""

from __future__ import annotations

import zlib

from model_store.errors import SlipwayError
from serving.runtime.call import Call, Outputs
from serving.runtime.codec.request import InferRequest, read_request
from serving.runtime.errors import Refused, status_of
from serving.runtime.http.exchange import JSON, Exchange
from serving.runtime.model import ServedModel

_GZIP_OR_ZLIB = 47


class HttpCall(Call):
    """A call that answers an exchange, in JSON or with binary tensors as its request asked."""

    __slots__ = ("exchange", "model", "request")

    def __init__(self, exchange: Exchange, model: ServedModel, request: InferRequest) -> None:
        super().__init__(request.data, request.shapes, model.signature)
        self.exchange = exchange
        self.model = model
        self.request = request

    @property
    def is_abandoned(self) -> bool:
        return self.exchange.is_abandoned

    def answered(self, outputs: Outputs, first: int) -> None:
        try:
            body, headers = self._written(outputs, first)
        except SlipwayError as error:
            self.failed(error)
            return
        self.model.record(self, 200)
        self.exchange.reply(body, headers=headers)

    def failed(self, error: SlipwayError) -> None:
        self.model.record(self, status_of(error))
        self.exchange.reply_error(error, headers=self.model.headers)

    def _written(self, outputs: Outputs, first: int) -> tuple[bytes, bytes]:
        request, model = self.request, self.model
        if request.outputs is None:
            return model.writer.plain(outputs, first, self.rows, request.id), JSON + model.headers
        head, blob = model.writer.chosen(outputs, first, self.rows, request.id, request.outputs)
        if not blob:
            return head, JSON + model.headers
        length = b"inference-header-content-length: %d\r\n" % len(head)
        return head + blob, b"content-type: application/octet-stream\r\n" + length + model.headers


def infer(exchange: Exchange, model: ServedModel, max_body_bytes: int) -> None:
    """Start an inference; the exchange is answered now (a mistake) or when the model has computed."""
    try:
        request = read_request(model.signature, _body(exchange, max_body_bytes), _header_length(exchange))
        call = HttpCall(exchange, model, request)
        model.infer(call)
    except SlipwayError as error:
        model.metrics.finished(status_of(error))
        exchange.reply_error(error, headers=model.headers)


def _header_length(exchange: Exchange) -> int | None:
    value = exchange.headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise Refused(
            f"Inference-Header-Content-Length is {value[:40]!r}",
            remedy="set it to the length of the JSON part in bytes",
        )
    return int(value)


def _body(exchange: Exchange, max_body_bytes: int) -> bytes:
    encoding = exchange.headers.get(b"content-encoding")
    if encoding is None or encoding == b"identity":
        return exchange.body
    if encoding not in (b"gzip", b"deflate"):
        raise Refused(
            f"content-encoding {encoding[:40]!r} is not known",
            remedy="send gzip, deflate or no encoding",
            status=415,
        )
    return _inflated(exchange.body, max_body_bytes)


def _inflated(body: bytes, limit: int) -> bytes:
    reader = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        inflated = reader.decompress(body, limit)
    except zlib.error as error:
        raise Refused(
            f"the body is not what content-encoding says: {error}", remedy="send it plain"
        ) from error
    if reader.unconsumed_tail:
        raise Refused(f"the body inflates to more than {limit} bytes", remedy="send fewer rows", status=413)
    if not reader.eof:
        raise Refused("the compressed body is cut short", remedy="send all of it")
    return inflated
