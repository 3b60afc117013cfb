"""DeepFM by hand: its gradients against differences, its ONNX against itself, and whether it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from examples.recsys.deepfm import Recipe, Shape, forward, gradients, initial, predict, to_onnx, train
from model_store.inference import answer, open_session

Array = np.ndarray[Any, Any]

SHAPE = Shape(fields=(5, 4), genres=3, width=4, hidden=(6, 5))


def rows(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Ids, genres, and labels that depend on a pair of fields, which no linear model can know."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, 5, count), rng.integers(0, 4, count)], axis=1)
    genres = rng.integers(0, 2, (count, 3)).astype(np.float32)
    return ids, genres, ((ids[:, 0] + ids[:, 1]) % 2).astype(np.float32)


def loss(parameters: dict[str, Array], ids: Array, genres: Array, labels: Array) -> float:
    logits = forward(parameters, SHAPE, ids, genres).logits
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


@pytest.mark.parametrize("name", sorted(initial(SHAPE, np.random.default_rng(0))))
def test_gradients_are_what_small_changes_do_to_the_loss(name: str) -> None:
    ids, genres, labels = rows(16)
    rng = np.random.default_rng(1)
    # In double precision and away from Relu's corners, so that differences mean something.
    parameters = {
        key: value.astype(np.float64) + 0.1 * rng.normal(size=value.shape)
        for key, value in initial(SHAPE, rng).items()
    }
    found = gradients(parameters, forward(parameters, SHAPE, ids, genres), labels)[name]
    expected = np.zeros_like(parameters[name])
    for place in np.ndindex(expected.shape):
        by = []
        for step in (1e-5, -1e-5):
            parameters[name][place] += step
            by.append(loss(parameters, ids, genres, labels))
            parameters[name][place] -= step
        expected[place] = (by[0] - by[1]) / 2e-5
    assert np.abs(found - expected).max() < 1e-5


def test_the_onnx_model_says_what_numpy_says() -> None:
    ids, genres, _ = rows(50)
    genres[0] = 0
    parameters = initial(SHAPE, np.random.default_rng(2))
    said = answer(
        open_session(to_onnx(parameters, SHAPE).SerializeToString()), {"ids": ids, "genres": genres}
    )
    liked = predict(parameters, SHAPE, ids, genres)
    assert np.abs(said["probabilities"][:, 1] - liked).max() < 1e-6
    assert np.abs(said["probabilities"].sum(1) - 1).max() < 1e-6
    assert said["label"].tolist() == (liked > 0.5).astype(int).tolist()


def test_it_learns_what_depends_on_two_fields_together() -> None:
    parameters = train(SHAPE, *rows(2000), Recipe(epochs=30, batch=100, rate=0.01, decay=0, keep=1))
    ids, genres, labels = rows(500, seed=9)
    assert np.mean((predict(parameters, SHAPE, ids, genres) > 0.5) == labels) > 0.98


def test_the_same_seed_gives_the_same_model() -> None:
    first, second, other = (
        train(SHAPE, *rows(300), Recipe(epochs=2, batch=50, seed=seed)) for seed in (1, 1, 2)
    )
    assert all((first[name] == second[name]).all() for name in first)
    assert not (first["w0"] == other["w0"]).all()
