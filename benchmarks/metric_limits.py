"""How often a model exactly at a gate's limit passes: `python -m benchmarks.metric_limits [TASK ...]`.

For each metric a reference and a candidate are drawn again and again from one population, whose difference is
known from a sample of 100,000 rows. With that difference as the limit, at most 5 % of the candidates may pass
at 95 % confidence. The candidates change few rows or all; classes are even or rare, errors normal or of heavy
tails. Printed is whatever passes more often than chance explains; tests/unit has the quick version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from model_store.metrics import Prediction, TooFewRows, Truth, known, metric

Array = np.ndarray[Any, Any]
Drawn = tuple[Truth, Prediction, Prediction]
CONFIDENCE = 0.95
POPULATION = 100_000


class Change(NamedTuple):
    """How a candidate differs: `kind` of `CHANGES`, by how much."""

    kind: str
    amount: float


def changes(rows: int) -> Iterator[Change]:
    """All of them; of those that touch few rows, about three and about ten."""
    for touched in (3 / rows, 10 / rows):
        yield from (Change("blind", touched), Change("reversed", touched))
    for amount in (0.05, 0.2):
        yield Change("missed", amount)
    for kind, amounts in {"noise": (0.3, 2), "shift": (0.5, 2), "scale": (0.7, 1.6)}.items():
        yield from (Change(kind, amount) for amount in amounts)


def changed(rng: np.random.Generator, scores: Array, positive: Array, change: Change) -> Array:
    """Logits or values ([N] or [N, C]) of the candidate; `positive` is of the same shape."""
    result = scores.copy()
    touched = rng.random(len(scores)) < change.amount
    match change.kind:
        case "blind":
            result[touched] = rng.permutation(scores)[touched]
        case "reversed":
            result[touched] = -scores[touched]
        case "missed":
            result[(rng.random(scores.shape) < change.amount) & positive] -= 8
        case "noise":
            result += change.amount * rng.normal(size=scores.shape)
        case "shift":
            result[..., 0 if scores.ndim == 2 else slice(None)] -= change.amount
        case "scale":
            result *= change.amount
    return result


def sigmoid(logits: Array) -> Array:
    """Probabilities."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def binary(rng: np.random.Generator, rows: int, change: Change, *, share: float = 0.5) -> Drawn:
    """Logits that are true: two normals two standard deviations apart."""
    y = (rng.random(rows) < share).astype(np.int64)
    logits = 2 * (rng.normal(size=rows) + 2 * y) - 2 + np.log(share / (1 - share))

    def said(scores: Array) -> Prediction:
        p = sigmoid(scores)
        return Prediction((scores > 0).astype(np.int64), np.c_[1 - p, p], True)

    return Truth(y, 2), said(logits), said(changed(rng, logits, y == 1, change))


def multiclass(
    rng: np.random.Generator, rows: int, change: Change, *, shares: tuple[float, ...] = (0.25,) * 4
) -> Drawn:
    """Four classes, each with a score of its own."""
    y = rng.choice(len(shares), rows, p=shares)
    is_so = np.eye(len(shares))[y]
    logits = np.log(shares) + 2 * (rng.normal(size=is_so.shape) + 2 * is_so)

    def said(scores: Array) -> Prediction:
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return Prediction(scores.argmax(axis=1), p / p.sum(axis=1, keepdims=True), True)

    return Truth(y, len(shares)), said(logits), said(changed(rng, logits, is_so == 1, change))


def multilabel(
    rng: np.random.Generator, rows: int, change: Change, *, shares: tuple[float, ...] = (0.3, 0.5, 0.4)
) -> Drawn:
    """Three labels."""
    y = (rng.random((rows, len(shares))) < shares).astype(np.int64)
    odds = np.log(np.array(shares) / (1 - np.array(shares)))
    logits = 2 * (rng.normal(size=y.shape) + 2 * y) - 2 + odds

    def said(scores: Array) -> Prediction:
        return Prediction((scores > 0).astype(np.int64), sigmoid(scores), True)

    return Truth(y, len(shares)), said(logits), said(changed(rng, logits, y == 1, change))


def regression(
    rng: np.random.Generator, rows: int, change: Change, *, spread: float = 1.7, degrees: float | None = None
) -> Drawn:
    """Predictions of that spread, and errors that are normal or Student's t."""
    x = spread * rng.normal(size=rows)
    y = x + (rng.normal(size=rows) if degrees is None else rng.standard_t(degrees, size=rows))
    candidate = changed(rng, x, y > spread, change)
    return Truth(values=y), Prediction(values=x), Prediction(values=candidate)


def ranking(rng: np.random.Generator, rows: int, change: Change) -> Drawn:
    """Groups of eight; all rows of a group are touched or none. `rows` counts groups, up to 30,000."""
    rows = min(rows, 30_000)
    gains = (rng.random((rows, 8)) < 0.2) * rng.integers(1, 4, (rows, 8)).astype(float)
    gains[:, 0] = np.maximum(gains[:, 0], 1)
    scores = gains + rng.normal(size=gains.shape)
    candidate = changed(rng, scores, gains > 0, change)
    groups = np.repeat(np.arange(rows), 8)
    return (
        Truth(values=gains.ravel(), groups=groups),
        Prediction(scores=scores.ravel()),
        Prediction(scores=candidate.ravel()),
    )


Draw = Callable[[np.random.Generator, int, Change], Drawn]

POPULATIONS: dict[str, tuple[str, Draw]] = {
    "binary, even": ("binary", binary),
    "binary, 5 %": ("binary", lambda *a: binary(*a, share=0.05)),
    "multiclass, even": ("multiclass", multiclass),
    "multiclass, skewed": ("multiclass", lambda *a: multiclass(*a, shares=(0.9, 0.06, 0.03, 0.01))),
    "multilabel, even": ("multilabel", multilabel),
    "multilabel, skewed": ("multilabel", lambda *a: multilabel(*a, shares=(0.3, 0.1, 0.03))),
    "regression, normal": ("regression", regression),
    "regression, heavy tails": ("regression", lambda *a: regression(*a, degrees=3)),
    "ranking": ("ranking", ranking),
}


def names(task: str) -> list[str]:
    """Metrics of a task with numbers for families; MAPE is left out, whose targets here cross 0."""
    found = (name.replace("<k>", "3").replace("<quantile>", "0.9") for name in known(task))  # type: ignore[arg-type]
    return [name for name in found if name != "mape"]


def passing(
    metrics: list[str], draw: Draw, rows: int, change: Change, *, repeats: int, seed: int = 0
) -> dict[str, float]:
    """Of each metric by which the candidate is worse in the population, the share of samples in which it
    passes with that difference as the limit; samples that say nothing do not pass."""
    rng = np.random.default_rng(seed)
    limits = _limits(metrics, draw(rng, POPULATION, change))
    passed = dict.fromkeys(limits, 0)
    for _ in range(repeats):
        sample = draw(rng, rows, change)
        for name, limit in limits.items():
            passed[name] += _passes(name, sample, limit)
    return {name: count / repeats for name, count in passed.items()}


def _limits(metrics: list[str], population: Drawn) -> dict[str, float]:
    truth, reference, candidate = population
    limits = {}
    for name in metrics:
        found = metric(name)
        before, after = found.value(truth, reference), found.value(truth, candidate)
        difference = after / before - 1 if found.relative else after - before
        if (difference < -1e-4) if found.higher_is_better else (difference > 1e-4):
            limits[name] = difference
    return limits


def _passes(name: str, sample: Drawn, limit: float) -> bool:
    found: Any = metric(name)
    try:
        bounds = found.bounds(*sample, CONFIDENCE)
    except TooFewRows:
        return False
    return bool(bounds.lower >= limit if found.higher_is_better else bounds.upper <= limit)


def main() -> None:
    """Print every combination that passes too often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", help="all if none is named")
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--rows", type=int, nargs="*", default=[100, 300, 1000, 10_000])
    given = parser.parse_args()
    most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / given.repeats)
    for name, (task, draw) in POPULATIONS.items():
        for rows in given.rows if not given.tasks or task in given.tasks else []:
            for change in changes(rows):
                found = passing(names(task), draw, rows, change, repeats=given.repeats)
                if too_often := {n: round(share, 3) for n, share in found.items() if share > most}:
                    print(f"{name}, {rows} rows, {change.kind} {change.amount:.3g}: {too_often}", flush=True)
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
