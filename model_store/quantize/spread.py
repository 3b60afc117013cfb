"""Which calibration rows are used, and how many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_store.inference import Rows, count_rows

CALIBRATION_BATCH = 32


def spread(rows: Rows, limit: int, batch: int = CALIBRATION_BATCH) -> dict[str, np.ndarray[Any, Any]]:
    """At most `limit` rows in whole batches, evenly spaced: in sorted files the first are unlike the rest."""
    count = count_rows(rows)
    wanted = min(limit, count)
    if wanted > batch:  # onnxruntime's histograms take batches of one size only
        wanted -= wanted % batch
    chosen = np.linspace(0, count - 1, wanted).round().astype(np.int64)
    return {name: array[chosen] for name, array in rows.items()}


def filled(rows: Rows, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """The rows, and the last again until they are whole batches of this size."""
    count = count_rows(rows)
    chosen = np.minimum(np.arange(-(-count // size) * size), count - 1)
    return {name: array[chosen] for name, array in rows.items()}
