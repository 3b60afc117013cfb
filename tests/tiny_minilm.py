"""A transformer of MiniLM's shape, small enough for tests, and rows whose right answer it can know."""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.service.minilm import Config, Head, encoder
from model_store.inference import answer, open_session

Array = np.ndarray[Any, Any]
Rows = dict[str, Array]

CONFIG = Config(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, layer_norm_eps=1e-12)
WORDS, PLACES, TOKENS = 60, 16, 12
# Mails with these words are spam.
BAD_WORDS = range(40, 60)


def weights(seed: int = 0, config: Config = CONFIG, wide: int = 64) -> dict[str, Array]:
    """Random weights under MiniLM's names."""
    rng = np.random.default_rng(seed)
    size = config.hidden_size
    made: dict[str, Array] = {
        "embeddings.word_embeddings.weight": rng.normal(0, 1, (WORDS, size)),
        "embeddings.position_embeddings.weight": rng.normal(0, 0.1, (PLACES, size)),
        "embeddings.token_type_embeddings.weight": rng.normal(0, 0.1, (2, size)),
    }
    shapes = {
        "attention.self.query": (size, size),
        "attention.self.key": (size, size),
        "attention.self.value": (size, size),
        "attention.output.dense": (size, size),
        "intermediate.dense": (wide, size),
        "output.dense": (size, wide),
    }
    for layer in range(config.num_hidden_layers):
        for name, shape in shapes.items():
            made[f"encoder.layer.{layer}.{name}.weight"] = rng.normal(0, shape[1] ** -0.5, shape)
            made[f"encoder.layer.{layer}.{name}.bias"] = rng.normal(0, 0.1, shape[0])
    norms = [
        f"encoder.layer.{n}.{part}output"
        for n in range(config.num_hidden_layers)
        for part in ("attention.", "")
    ]
    for norm in ("embeddings", *norms):
        made[f"{norm}.LayerNorm.weight"] = rng.normal(1, 0.1, size)
        made[f"{norm}.LayerNorm.bias"] = rng.normal(0, 0.1, size)
    return {name: value.astype(np.float32) for name, value in made.items()}


def mails(count: int, seed: int = 0) -> tuple[Rows, Array]:
    """(inputs by name [N, TOKENS], labels [N]): half of the mails hold bad words; lengths differ."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    ids = np.zeros((count, TOKENS), np.int64)
    mask = np.zeros((count, TOKENS), np.int64)
    for row, is_bad in enumerate(labels):
        length = int(rng.integers(TOKENS // 2, TOKENS + 1))
        ids[row, :length] = rng.integers(1, BAD_WORDS.start, length)
        if is_bad:
            ids[row, rng.integers(0, length, 3)] = rng.choice(BAD_WORDS, 3)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}, labels


def head(rows: Rows, labels: Array, seed: int = 0) -> Head:
    """A layer fitted in closed form on the embeddings (ridge regression)."""
    embeddings = answer(open_session(encoder(weights(seed), CONFIG).SerializeToString()), rows)["embedding"]
    wide = np.hstack([embeddings, np.ones((len(labels), 1))])
    wanted = 2.0 * labels - 1
    solved = np.linalg.solve(wide.T @ wide + 0.1 * np.eye(wide.shape[1]), wide.T @ wanted) * 4
    both = np.stack([-solved, solved], axis=1).astype(np.float32)
    return Head(both[:-1], both[-1])
