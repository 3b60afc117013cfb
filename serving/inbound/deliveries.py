"""Which deliveries were taken already, also by another process, on another machine or before a restart.

One row for each in the ledger: of several that get the same delivery exactly one takes it. It says nothing
until somebody notes what came of the delivery. The controller forgets it days after it is believed no more.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from serving.inbound.signature import Stamp
from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.rows import DeliveryRow

SOURCE = "mlflow"


class Deliveries:
    """MLflow's, among `rows`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def take(self, stamp: Stamp) -> bool:
        """Whether this is the first time that this delivery comes."""
        return self._rows.create(DeliveryRow(id=_id(stamp), source=SOURCE, at=stamp.at))

    def note(self, stamp: Stamp, words: str) -> None:
        """Write down what came of a delivery that was taken; nothing if it was forgotten since."""
        for taken in self._rows.find(DeliveryRow, id=_id(stamp)):
            with suppress(StaleGeneration):
                self._rows.save(replace(taken, words=words))


def _id(stamp: Stamp) -> str:
    return f"{SOURCE}/{stamp.delivery_id}"
