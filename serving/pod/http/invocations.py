"""`POST /v2/models/<m>[/versions/<v>]/invocations`: what clients of `mlflow models serve` send and expect.

Such a request travels as any other: the same batches, caches, deadlines and counters.
"""

from __future__ import annotations

from model_store.engines.errors import status_of
from model_store.errors import SlipwayError
from serving.pod.call import BatchOutputs
from serving.pod.codec.request import InferRequest
from serving.pod.http.exchange import JSON, Exchange
from serving.pod.http.infer import HttpCall, plain_body
from serving.pod.model import ServedModel
from serving.pod.urgency import read_priority, read_timeout


class Invocation(HttpCall):
    """Answers in MLflow's words."""

    __slots__ = ()

    def _written(self, outputs: BatchOutputs, first: int) -> tuple[bytes, bytes]:
        body = self.model.invocations.write(outputs, first, self.rows)
        return body, JSON + self.model.headers + self.source


def invoke(exchange: Exchange, model: ServedModel, max_body_bytes: int) -> None:
    """Start it; the exchange is answered now (a mistake) or when the model has computed."""
    try:
        priority = read_priority(exchange.headers, {})
        if model.would_shed and model.refuses(priority):
            raise model.shed_unread()
        body = plain_body(exchange, max_body_bytes)
        asked = model.invocations.read(body, exchange.headers.get(b"content-type", b""))
        timeout = read_timeout(exchange.headers, {}, model.timeout_seconds)
    except SlipwayError as error:
        model.metrics.finished(status_of(error))
        exchange.reply_error(error, headers=model.headers)
        return
    call = Invocation(exchange, model, InferRequest(asked.data, asked.shapes, "", None, {}))
    call.priority, call.timeout = priority, timeout
    model.infer(call)
