"""How large one request may be: what the model computes within its deadline, measured where the pod runs.

Admission counts requests, and a request of half a million rows is one. So the rows of one request are limited
by the time they take, and more than a batch are computed in pieces (`serving.pod.large`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from model_store.engines.manifest import Manifest
from model_store.engines.signature import Shape
from serving.pod.warmup import Warmed

# Of a request's time. The other half of the engine's is others': they have a turn after each piece.
_SHARE = 0.5
_NEARLY_AS_CHEAP = 1.5
# Of looking at a row's bytes, however quick the model.
_LEAST_ROW_SECONDS = 0.0000002
# JSON is read and written in one go, and nobody else is heard meanwhile. So long orjson and struct take for a
# number read and a number written (docs/decisions/0109).
_JSON_SECONDS = 0.05
_READ_SECONDS, _WRITTEN_SECONDS = 0.0000003, 0.0000002


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one loaded model. Rows are as long as warmup's: a longer one counts as several.

    `max_rows` and `max_json_rows` are of one request, `batch_rows` what is computed whole, `piece_rows` what
    is computed at once of more. `row_elements`: those of a row of each input at warmup; 0 where not known.
    """

    max_rows: int
    max_json_rows: int
    batch_rows: int
    piece_rows: int
    row_seconds: float
    row_elements: tuple[int, ...]

    @classmethod
    def measured(cls, manifest: Manifest, warmed: Warmed) -> Sizes:
        settings, signature = manifest.settings, manifest.signature
        batch = settings.max_batch_size if signature.is_batched else 1
        row_seconds = max(warmed.cheapest_row_seconds, _LEAST_ROW_SECONDS)
        # A request of one batch is always taken: many small ones are computed together as well.
        fits = max(int(_SHARE * settings.timeout_ms / 1000 / row_seconds), batch)
        fits = min(fits, settings.max_rows or fits)
        return cls(
            max_rows=fits,
            max_json_rows=min(max(int(_JSON_SECONDS / _json_row_seconds(warmed)), batch), fits),
            batch_rows=min(batch, fits),
            piece_rows=warmed.short_batch_rows or _cheap_rows(warmed),
            row_seconds=row_seconds,
            row_elements=warmed.row_elements,
        )

    def weight(self, shapes: Sequence[Shape]) -> int:
        """Of a batched model's call: so many rows of warmup's length take as long."""
        pairs = zip(shapes, self.row_elements, strict=True)
        return max(-(-prod(shape) // each) if each else shape[0] for shape, each in pairs)


def _cheap_rows(warmed: Warmed) -> int:
    """The smallest batch whose rows cost hardly more than in the cheapest."""
    cheapest = _NEARLY_AS_CHEAP * warmed.cheapest_row_seconds
    return next(rows for rows, seconds in warmed.seconds_by_rows if seconds / rows <= cheapest)


def _json_row_seconds(warmed: Warmed) -> float:
    return _READ_SECONDS * max(sum(warmed.row_elements), 1) + _WRITTEN_SECONDS * warmed.row_answers
