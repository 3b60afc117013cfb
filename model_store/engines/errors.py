"""How the pod says no: a client's mistake, values the model refuses, a full or draining pod, a broken model.

Each carries the HTTP status it becomes; `serving.pod.http.replies` and the gRPC front translate.
"""

from __future__ import annotations

from model_store.errors import Permanent, Retryable, SlipwayError


class Refused(Permanent):
    """The request is wrong: 4xx, never 5xx. Sending it again changes nothing."""

    def __init__(self, problem: str, *, remedy: str, status: int = 400) -> None:
        super().__init__(problem, remedy=remedy)
        self.status = status


class RefusedByModel(Refused):
    """The request is as the signature wants it, and this version's model does not take its values.

    Another version may, so the answer says whose doing it is: the gateway counts it against this one.
    """


class TooLarge(Refused):
    """A request asks for more than there is time for: 413, which nobody repeats or counts as a failure."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(problem, remedy=remedy, status=413)


class Unavailable(Retryable):
    """The pod cannot take the request now (full, draining, not loaded): 503 with Retry-After."""

    status = 503

    def __init__(
        self, problem: str, *, remedy: str, delay_seconds: float = 1.0, status: int = status
    ) -> None:
        super().__init__(problem, remedy=remedy, delay_seconds=delay_seconds)
        self.status = status


class ModelFault(Permanent):
    """The model failed on a well-formed request: 500, so that the gateway retries elsewhere and counts it."""

    status = 500

    def __init__(self, problem: str, *, remedy: str = "look at the pod's log; roll the version back") -> None:
        super().__init__(problem, remedy=remedy)


class Abandoned(Permanent):
    """The client went away; nobody reads this. 499 in the metrics, as nginx counts it."""

    status = 499

    def __init__(self) -> None:
        super().__init__("the client closed the connection", remedy="none needed")


class Expired(Permanent):
    """The deadline passed while the request waited: 504, and the engine never saw it."""

    status = 504

    def __init__(self) -> None:
        super().__init__(
            "the deadline passed before the model could start", remedy="allow more time, or add replicas"
        )


def said_beside(error: SlipwayError) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that go with an error, for the gateway (`serving.types.REFUSED_HEADER`)."""
    return _BY_MODEL if isinstance(error, RefusedByModel) else ()


_BY_MODEL = ((b"x-slipway-refused", b"model"),)


def status_of(error: SlipwayError) -> int:
    """The HTTP status an error becomes; an error without one is the pod's own fault."""
    status: int = getattr(error, "status", 500)
    return status
