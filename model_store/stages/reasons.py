"""Why a candidate does not exist: whatever a library raised, as one sentence for the report.

One precision that fails stops nobody else. Only what concerns every candidate goes through: a store that
cannot be written, stored bytes that changed, a server that may come back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from model_store.errors import Retryable
from model_store.explained import explain
from model_store.storage.base import Corrupt, Missing
from model_store.unwritable import unwritable

log = logging.getLogger("slipway.build")


class CandidateFailed(Exception):  # noqa: N818 - a finding to report, not an error
    """This candidate cannot be; the text says why. Not remembered: it may be the memory of a busy machine."""


@contextmanager
def attempt(doing: str, *, otherwise: str) -> Iterator[None]:
    """Work on one candidate. Raises `CandidateFailed` for whatever goes wrong, with the whole error in the
    log; `otherwise` is the remedy for a fault that `explain` does not know.
    """
    try:
        yield
    except Exception as error:  # onnx, onnxruntime, numpy and protobuf share no base
        if isinstance(error, (Retryable, Corrupt, Missing)) or unwritable(error) is not None:
            raise
        log.warning("%s failed", doing, exc_info=error)
        raise CandidateFailed(f"{doing} failed: {explain(error, otherwise=otherwise)}") from error
