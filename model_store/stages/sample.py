"""A few evaluation rows with the answers that the gates judged, so that pods can be asked the same again.

Whatever lies between (the bundle, another machine's engine, batching, the gateway) must not change them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from model_store.arrays import Rows, saved_answers, spread
from model_store.engines.noise import rows_that_differ

MOST_ROWS = 64
# Of a model of pictures as many rows would be a hundred megabytes.
MOST_BYTES = 16 * 1024 * 1024
_INPUT, _OUTPUT, _NOISE = "input:", "output:", "noise"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows [n, ...] by input name and their answers [n, ...] by output name; text as numpy's own type.

    `noise`: what of the answers' digits is (`model_store.engines.noise`), by the engine that the gates ran.
    """

    inputs: Rows
    outputs: Rows
    noise: float

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def part(self, first: int, count: int) -> Sample:
        """These rows alone."""
        return self._at(slice(first, first + count))

    def differing(self, answers: Rows) -> int:
        """How many rows have other answers than here, beyond what batches and machines change.

        Raises `ValueError`, in words, for answers of another form: no output may be missing, none new.
        """
        if answers.keys() != self.outputs.keys():
            raise ValueError(f"outputs {sorted(answers)} in place of {sorted(self.outputs)}")
        for name, array in self.outputs.items():
            if answers[name].shape != array.shape:
                raise ValueError(f"output {name} has shape {answers[name].shape} in place of {array.shape}")
        return rows_that_differ(self.outputs, answers, self.noise)

    def to_bytes(self) -> bytes:
        """As .npz without pickles."""
        named = {
            **{_INPUT + name: array for name, array in self.inputs.items()},
            **{_OUTPUT + name: array for name, array in self.outputs.items()},
        }
        return saved_answers({**named, _NOISE: np.array(self.noise)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Sample:
        """What `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as saved:
            inputs, outputs = (
                {name.removeprefix(kind): saved[name] for name in saved.files if name.startswith(kind)}
                for kind in (_INPUT, _OUTPUT)
            )
            return cls(inputs, outputs, float(saved[_NOISE]))

    def _at(self, places: slice | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Sample:
        inputs, outputs = (
            {name: array[places] for name, array in rows.items()} for rows in (self.inputs, self.outputs)
        )
        return Sample(inputs, outputs, self.noise)


def sample_of(inputs: Rows, outputs: Rows, noise: float) -> Sample:
    """Up to `MOST_ROWS` of the rows, evenly from the first to the last."""
    whole = Sample(inputs, outputs, noise)
    row_bytes = sum(array.nbytes for rows in (inputs, outputs) for array in rows.values()) / len(whole)
    most = max(1, min(MOST_ROWS, int(MOST_BYTES / max(row_bytes, 1))))
    return whole._at(spread(inputs, most))
