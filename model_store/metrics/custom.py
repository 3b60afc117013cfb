"""A metric of the user's own: `PATH.py:function`, or `module:function` of an installed module.

The function gets `truth` and `said`, with the arrays of `Truth` and `Prediction` as attributes (None for
what there is not), and returns one number for each row. Larger is better; the metric is their mean. It runs
in a process of its own, without our environment, and only if the spec trusts its source. The file stands
beside the spec, not in the model's `code` folder: a model that brings its own judge is not judged.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from model_store.errors import Permanent
from model_store.foreign_code import Limits, run_child
from model_store.metrics.base import Comparison, Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.kinds import gain_bounds
from model_store.sandbox import importable

Array = np.ndarray[Any, Any]

CHILD = Path(__file__).with_name("custom_child.py")
TRUTH, SAID = ("classes", "values", "groups"), ("decisions", "scores", "values")


LIMITS = Limits(seconds=120)


class Custom:
    """One function. `scratch`: where it is run, an empty folder each time; in a build one of the store's, so
    that a killed build leaves nothing in TMPDIR. Raises `Permanent` for a name that is none, and for code
    that nobody trusts.
    """

    tasks: frozenset[Task] = frozenset(get_args(Task))
    needs: Needs = "any"
    higher_is_better = True
    relative = False

    def __init__(
        self,
        name: str,
        *,
        trusted: bool,
        limits: Limits | None = None,
        scratch: Callable[[], AbstractContextManager[Path]] | None = None,
    ) -> None:
        self.name, self._limits, self._scratch = name, limits or LIMITS, scratch or _in_tmpdir
        self._source, _, self._function = name.rpartition(":")
        if not self._source or not self._function.isidentifier():
            raise Permanent(f"{name} names no function", remedy="write PATH.py:function or module:function")
        if not trusted:
            raise Permanent(
                f"the metric {name} is code, and the spec does not trust its source; nothing was loaded",
                remedy="set source.trusted: true, or gate a metric that Slipway has",
            )
        if self._source.endswith(".py") and not Path(self._source).is_file():
            raise Permanent(f"there is no file {self._source}", remedy="correct the metric's path")

    def value(self, truth: Truth, said: Prediction) -> float:
        """The mean over rows."""
        return float(self._rows(truth, [said])[0].mean())

    def blind(self, truth: Truth) -> Prediction | None:
        """None: what the function makes of an answer, only the function knows."""
        return None

    def trivial(self, truth: Truth) -> float | None:
        """None, as there is no blind answer."""
        return None

    def compare(
        self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float
    ) -> Comparison:
        """Of the mean difference over rows."""
        before, after = self._rows(truth, [reference, candidate])
        bounds = gain_bounds(before, after, confidence)
        return Comparison(float(before.mean()), float(after.mean()), *bounds)

    def _rows(self, truth: Truth, said: Sequence[Prediction]) -> list[Array]:
        """[N] for each model, from one child."""
        if len(truth) == 0:
            raise TooFewRows("no rows")
        with self._scratch() as work:
            np.savez(work / "rows.npz", allow_pickle=False, **_arrays(truth, said))
            self._ask(work, len(said))
            told = json.loads((work / "result.json").read_text())
            if "problem" in told:
                raise Permanent(f"the metric {self.name} {told['problem']}", remedy="correct the function")
            with np.load(work / "answers.npz", allow_pickle=False) as saved:
                return [self._checked(saved[f"{place}"], len(truth)) for place in range(len(said))]

    def _checked(self, rows: Array, expected: int) -> Array:
        if rows.shape != (expected,):
            raise Permanent(
                f"the metric {self.name} answers {list(rows.shape)} for {expected} rows",
                remedy="return one number for each row",
            )
        if not (finite := np.isfinite(rows)).all():
            raise Permanent(
                f"the metric {self.name} answers NaN or infinity, first for row {int(np.argmin(finite))}",
                remedy="return a finite number for each row",
            )
        return rows.astype(np.float64)

    def _ask(self, work: Path, models: int) -> None:
        source = str(Path(self._source).resolve()) if self._source.endswith(".py") else self._source
        path = importable()
        request = {"source": source, "function": self._function, "models": models}
        request["path"] = list(map(str, path))
        (work / "request.json").write_text(json.dumps(request))
        try:
            readable = [*path, *(_modules(Path(source)) if source.endswith(".py") else ())]
            status = run_child(CHILD, work, self._limits, readable=readable)
        except subprocess.TimeoutExpired as error:
            problem = f"the metric {self.name} took longer than {self._limits.seconds:g} s"
            raise Permanent(problem, remedy="make it faster: it sees all rows at once") from error
        if status:
            last = (work / "log").read_text(errors="replace").strip().splitlines()[-1:] or [""]
            problem = f"the metric {self.name} died with status {status}: {last[0][:200]}"
            raise Permanent(problem, remedy="correct the function")


def _modules(source: Path) -> Iterator[Path]:
    """The file and the modules beside it, which it may import. Nothing else that lies there."""
    yield from source.parent.glob("*.py")
    yield from (package.parent for package in source.parent.glob("*/__init__.py"))


@contextmanager
def _in_tmpdir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="slipway-metric-") as name:
        yield Path(name)


def _arrays(truth: Truth, said: Sequence[Prediction]) -> dict[str, Array]:
    found = {f"truth.{name}": getattr(truth, name) for name in TRUTH}
    for place, one in enumerate(said):
        found |= {f"said{place}.{name}": getattr(one, name) for name in SAID}
    return {name: array for name, array in found.items() if array is not None}
