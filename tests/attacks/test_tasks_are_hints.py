"""Who may run tasks hands on another's results, or what no stage made: none of it is signed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from model_store import build
from model_store.errors import Permanent
from model_store.stages.base import BuildContext, Gated
from model_store.stages.gate import judged_of
from model_store.storage.store import Store
from model_store.types import ModelRef
from tests.build_world import Registry, a_world, gated, hurry, with_spec
from tests.small_models import Credit


def test_a_redirected_memo_counts_as_never_written(tmp_path: Path) -> None:
    """As long as it was only JSON in the store, whoever wrote there decided what was judged and signed."""
    store = Store(tmp_path / "store")
    assert store.memo("export", {"model": "fraud v1"}, lambda: {"made": "ours"}) == {"made": "ours"}
    [path] = store.root.glob("memo/export/*.json")
    memo = json.loads(path.read_bytes())
    path.write_text(json.dumps({**memo, "value": {"made": "theirs"}}))
    assert store.memo("export", {"model": "fraud v1"}, lambda: {"made": "again"}) == {"made": "again"}


def test_a_memo_in_the_place_of_another_counts_for_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.memo("export", {"model": "fraud v1"}, lambda: {"made": "of v1"})
    [first] = store.root.glob("memo/export/*.json")
    store.memo("export", {"model": "fraud v2"}, lambda: {"made": "of v2"})
    [second] = set(store.root.glob("memo/export/*.json")) - {first}
    second.write_bytes(first.read_bytes())
    assert store.memo("export", {"model": "fraud v2"}, lambda: {"made": "again"}) == {"made": "again"}


def test_where_no_key_is_nothing_is_taken_from_a_memo(tmp_path: Path) -> None:
    ours, elsewhere = (
        Store(tmp_path / "store"),
        Store(tmp_path / "store", keys=tmp_path / "no", makes_keys=False),
    )
    ours.memo("export", {}, lambda: {"made": 1})
    assert elsewhere.memo("export", {}, lambda: {"made": 2}) == {"made": 2}


@pytest.fixture
def world(tmp_path: Path, credit: Credit, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    hurry(monkeypatch)
    return a_world(Store(tmp_path / "store"), credit)


def published(ctx: BuildContext, verdicts: list[Gated], precision: str = "fp32") -> Any:
    chosen = cast(Any, {"precision": precision, "reason": "so the task says"})
    return build.publish_stage(ctx, build.export_stage(ctx), verdicts, chosen)


def test_another_specs_verdicts_are_not_signed(world: BuildContext) -> None:
    """The spec asks for more than the version has: those of a looser spec would pass it."""
    strict = with_spec(world, gates={"accuracy": {"max_drop": 0.01}, "auc": {"max_drop": 0.01, "min": 0.999}})
    with pytest.raises(Permanent, match="are not about this export of credit_risk v"):
        published(strict, gated(world))


def test_another_versions_verdicts_are_not_signed(world: BuildContext, credit: Credit) -> None:
    other = replace(world, registry=Registry({3: credit.onnx}), ref=ModelRef("credit_risk", 3))
    with pytest.raises(Permanent, match="are not about this export of credit_risk v3"):
        published(other, gated(world))


def test_an_export_of_other_files_is_not_signed_whatever_its_verdicts_say(world: BuildContext) -> None:
    """Verdicts name the export that they are about, and who hands on both can make them fit."""
    exported, verdicts = build.export_stage(world), gated(world)
    other = {**exported, "lineage": {**exported["lineage"], "source_digest": "sha256:other"}}
    fitting = [{**one, "judged": judged_of(world, cast(Any, other))} for one in verdicts]
    with pytest.raises(Permanent, match="are not those that it had when Slipway first saw it"):
        build.publish_stage(world, cast(Any, other), cast(Any, fitting), cast(Any, {"precision": "fp32"}))


def test_a_variant_that_its_gates_refused_is_not_signed(world: BuildContext) -> None:
    strict = with_spec(world, gates={"accuracy": {"max_drop": 0.01}, "auc": {"max_drop": 0.01, "min": 0.999}})
    with pytest.raises(Permanent, match="its gates did not pass it"):
        published(strict, gated(strict))


def test_rows_whose_check_was_marked_successful_are_checked_before_anything_is_signed(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = gated(world)

    def failing(*_: Any, **__: Any) -> Any:
        raise Permanent("the rows are not what they should be", remedy="mend them")

    monkeypatch.setattr("model_store.stages.data._check", failing)
    with pytest.raises(Permanent, match="rows are not what they should be"):
        published(world, verdicts)


def test_a_version_whose_files_were_overwritten_is_not_built_again(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An anonymous PUT replaced a registered version's MLmodel."""
    build.export_stage(world)
    registry = world.registry
    real = type(registry).download

    def overwritten(self: Any, ref: ModelRef, folder: Path, *, max_size_mb: float) -> Any:
        return replace(real(self, ref, folder, max_size_mb=max_size_mb), digest="sha256:other")

    monkeypatch.setattr(type(registry), "download", overwritten)
    changed = with_spec(world, gates={"export_tolerance": 0.01})
    with pytest.raises(Permanent, match="are not those that it had when Slipway first saw it"):
        build.export_stage(changed)
