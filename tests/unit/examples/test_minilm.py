"""The ONNX graph of MiniLM says what BERT's own formulas say, written down here a second time in numpy."""

from __future__ import annotations

import json
from math import erf
from pathlib import Path

import numpy as np
import pytest

from examples.service.minilm import Config, Head, classifier, encoder, read_safetensors
from model_store.inference import answer, open_session
from tests.tiny_minilm import CONFIG, Array, Rows, mails, weights


def norm(x: Array, scale: Array, shift: Array) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + CONFIG.layer_norm_eps) * scale + shift


def embeddings(w: dict[str, Array], rows: Rows) -> Array:
    """One mail and one head at a time, padding cut off instead of masked."""
    return np.array(
        [one(w, ids[mask == 1]) for ids, mask in zip(rows["input_ids"], rows["attention_mask"], strict=True)]
    )


def one(w: dict[str, Array], ids: Array) -> Array:
    x = (
        w["embeddings.word_embeddings.weight"][ids]
        + w["embeddings.position_embeddings.weight"][: len(ids)]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
    for n in range(CONFIG.num_hidden_layers):
        layer = {
            name.removeprefix(f"encoder.layer.{n}."): v for name, v in w.items() if f"layer.{n}." in name
        }
        x = block(layer, x)
    mean = x.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def block(w: dict[str, Array], x: Array) -> Array:
    def linear(name: str, value: Array) -> Array:
        return np.asarray(value @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    query, key, value = (linear(f"attention.self.{part}", x) for part in ("query", "key", "value"))
    size = CONFIG.hidden_size // CONFIG.num_attention_heads
    mixed = np.zeros_like(x)
    for start in range(0, CONFIG.hidden_size, size):
        part = slice(start, start + size)
        scores = query[:, part] @ key[:, part].T / np.sqrt(size)
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        mixed[:, part] = shares @ value[:, part]
    x = norm(
        x + linear("attention.output.dense", mixed),
        w["attention.output.LayerNorm.weight"],
        w["attention.output.LayerNorm.bias"],
    )
    wide = linear("intermediate.dense", x)
    bent = wide * 0.5 * (1 + np.vectorize(erf)(wide / np.sqrt(2)))
    return norm(x + linear("output.dense", bent), w["output.LayerNorm.weight"], w["output.LayerNorm.bias"])


def test_the_graph_computes_what_the_formulas_say() -> None:
    rows, _ = mails(6)
    got = answer(open_session(encoder(weights(), CONFIG).SerializeToString()), rows)["embedding"]
    assert np.abs(got - embeddings(weights(), rows)).max() < 1e-5


def test_padding_changes_nothing() -> None:
    rows, _ = mails(6)
    session = open_session(encoder(weights(), CONFIG).SerializeToString())
    padded = {name: np.pad(array, ((0, 0), (0, 4))) for name, array in rows.items()}
    noise = {**padded, "input_ids": np.where(padded["attention_mask"] == 1, padded["input_ids"], 7)}
    before, after = (answer(session, one)["embedding"] for one in (rows, noise))
    assert np.abs(before - after).max() < 1e-6


def test_a_mail_of_nothing_but_padding_has_an_answer() -> None:
    nothing = {name: np.zeros((1, 5), np.int64) for name in ("input_ids", "attention_mask")}
    assert np.isfinite(
        answer(open_session(encoder(weights(), CONFIG).SerializeToString()), nothing)["embedding"]
    ).all()


def test_the_head_decides_on_the_embedding() -> None:
    rows, _ = mails(8)
    rng = np.random.default_rng(3)
    head = Head(rng.normal(size=(32, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    said = answer(open_session(classifier(weights(), CONFIG, head).SerializeToString()), rows)
    logits = embeddings(weights(), rows) @ head.weights + head.bias
    assert said["label"].tolist() == logits.argmax(1).tolist()
    assert np.abs(said["probabilities"] - np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max() < 1e-5


def test_safetensors_are_read_by_name(tmp_path: Path) -> None:
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.int64)
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
    }
    written = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(written).to_bytes(8, "little") + written + first.tobytes() + second.tobytes())
    read = read_safetensors(path)
    assert sorted(read) == ["a", "b"]
    assert (read["a"] == first).all()
    assert (read["b"] == second).all()


def test_a_file_cut_off_in_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b"{")
    with pytest.raises(ValueError, match="truncated"):
        read_safetensors(path)


def test_the_sizes_are_read_from_the_models_own_file(tmp_path: Path) -> None:
    said = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "layer_norm_eps": 1e-12,
        "x": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert Config.read(tmp_path / "config.json") == CONFIG
