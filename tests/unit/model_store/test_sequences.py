"""A model of two int64 sequences, from its file to a pod's answer: every stage takes lists as rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples.service.minilm import classifier
from model_store import build
from model_store.bundle.publishing import load_bundle, serving_model
from model_store.dataset import UnusableData
from model_store.gates.expectations import check_data
from model_store.inference import answer, open_session
from model_store.records import read_tensors
from model_store.release_spec import ReleaseSpec
from model_store.stages.base import BuildContext
from model_store.storage.store import Store
from model_store.types import ModelRef
from tests.build_world import Registry, hurry
from tests.pods import running_pod
from tests.tiny_minilm import CONFIG, TOKENS, head, mails, weights

SPEC: dict[str, Any] = {
    "model": "mail_triage",
    "source": {"flavor": "onnx"},
    "data": {
        "evaluation": "${SLIPWAY_HOME}/evaluation.parquet",
        "calibration": "${SLIPWAY_HOME}/calibration.parquet",
        "label": "spam",
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask"},
        "slices": ["folder"],
        "min_rows": 100,
    },
    "precisions": ["int8", "fp32"],
    "targets": ["onnxruntime"],
    "prefer": "order",
    "gates": {"accuracy": {"max_drop": 0.02}, "auc": {"max_drop": 0.02}, "slices": {"max_drop": 0.1}},
    "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
}


def write(path: Path, count: int, seed: int, **changes: Any) -> None:
    rows, labels = mails(count, seed)
    columns = {name: array.tolist() for name, array in rows.items()}
    folders = np.where(np.arange(count) % 3 == 0, "easy", "hard")
    pd.DataFrame({**columns, "spam": labels, "folder": folders, **changes}).to_parquet(path)


@pytest.fixture
def world(store: Store, tmp_path: Path) -> BuildContext:
    write(tmp_path / "evaluation.parquet", 600, seed=1)
    write(tmp_path / "calibration.parquet", 128, seed=2)
    model = classifier(weights(), CONFIG, head(*mails(400, seed=3)))
    registry = Registry({1: model.SerializeToString()})
    spec = ReleaseSpec.model_validate(SPEC)
    return BuildContext(store, registry, spec, ModelRef("mail_triage", 1), tmp_path)


def test_two_sequences_go_from_the_registry_to_a_pods_answer(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    exported = build.export_stage(world)
    assert [(one["name"], one["datatype"], one["shape"]) for one in exported["inputs"]] == [
        ("input_ids", "INT64", [-1, -1]),
        ("attention_mask", "INT64", [-1, -1]),
    ]
    gated = [build._gated(world, exported, variant) for variant in build.variants(world.spec)]
    for one in gated:
        assert [check["detail"] for check in one["report"]["checks"] if not check["passed"]] == []
    small, large = (one["served"]["size_bytes"] for one in gated if one["served"])
    assert small < 0.7 * large
    chosen = build.choose_stage(world, gated)
    bundle = load_bundle(
        world.store.bundle_path(build.publish_stage(world, exported, gated, chosen)["bundle"])
    )
    assert chosen["precision"] == "int8"
    rows, _ = mails(20, seed=9)
    session = open_session(serving_model(bundle)[0], config=serving_model(bundle)[1])
    with running_pod(bundle.path) as pod:
        for row in range(20):
            # Shorter mails too: the second dimension is as free as the first.
            one = {name: array[row : row + 1, : TOKENS - row % 3] for name, array in rows.items()}
            said = pod.infer(request(one), model="mail_triage").json()["outputs"]
            expected = answer(session, one)
            assert said[0]["data"] == expected["label"].tolist()
            assert np.allclose(said[1]["data"], expected["probabilities"][0], atol=1e-6)


def request(rows: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in rows.items()
        ]
    }


def test_great_expectations_checks_columns_of_lists(world: BuildContext) -> None:
    exported = build.export_stage(world)
    home = world.home
    check = lambda: check_data(  # noqa: E731
        world.spec,
        home / "evaluation.parquet",
        home / "calibration.parquet",
        read_tensors(exported["inputs"]),
        columns=exported["columns"],
        docs_dir=home / "docs",
    )
    check().require()
    write(home / "calibration.parquet", 128, seed=1)
    failed = [one.name for one in check().checks if not one.passed]
    assert failed == ["evaluation: rows are not calibration rows"]
    write(home / "calibration.parquet", 128, seed=2, attention_mask=[[1] * TOKENS] * 127 + [None])
    failed = [one.name for one in check().checks if not one.passed]
    assert "calibration: attention_mask is never missing" in failed


def test_lists_of_different_lengths_are_refused_with_what_to_do(world: BuildContext) -> None:
    ragged = [[1] * TOKENS] * 599 + [[1]]
    write(world.home / "evaluation.parquet", 600, seed=1, attention_mask=ragged)
    with pytest.raises(UnusableData, match=r"lists of 1 to 12 values\n  remedy: pad or cut"):
        build.export_stage(world)


def test_the_champion_is_asked_once_for_all_variants(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    exported = build.export_stage(world)
    gated = [build._gated(world, exported, variant) for variant in build.variants(world.spec)]
    published = build.publish_stage(world, exported, gated, build.choose_stage(world, gated))
    registry = world.registry
    assert isinstance(registry, Registry)
    registry.champion = (1, published["bundle"])
    gates = {**SPEC["gates"], "champion": {"max_drop": 0.05}}
    spec = ReleaseSpec.model_validate({**SPEC, "gates": gates})
    registry.models[2] = registry.models[1]
    successor = BuildContext(world.store, registry, spec, replace(world.ref, version=2), world.home)
    exported = build.export_stage(successor)
    for variant in build.variants(spec):
        build._gated(successor, exported, variant)
    assert len(list((world.store.root / "memo" / "champion").glob("*.json"))) == 1
