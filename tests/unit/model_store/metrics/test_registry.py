"""Metrics by their names: ours, families, and those that packages install."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

from model_store.errors import Permanent
from model_store.metrics import Family, known, metric, registry
from model_store.metrics.accuracy import Accuracy


class Profit(Accuracy):
    name = "profit"


def install(monkeypatch: pytest.MonkeyPatch, name: str, loads: object) -> None:
    module = ModuleType("a_package")
    module.loads = loads
    monkeypatch.setitem(sys.modules, "a_package", module)
    point = EntryPoint(name, "a_package:loads", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([point]).select(group=group))


def test_every_metric_says_what_it_is() -> None:
    for name in known():
        found = metric(name.replace("<k>", "3").replace("<quantile>", "0.9"))
        assert found.tasks, name
        assert found.needs in ("decisions", "scores", "values")


def test_known_names_are_those_of_the_task() -> None:
    assert {"rmse", "mae", "r2", "pinball_<quantile>"} <= set(known("regression"))
    assert "accuracy" not in known("regression")
    assert {"accuracy", "recall", "auc"} <= set(known("binary"))


def test_a_number_in_the_name_makes_a_metric_of_the_family() -> None:
    assert metric("top_3").name == "top_3"
    assert metric("pinball_0.9").name == "pinball_0.9"


def test_a_number_out_of_range_is_refused_with_the_range() -> None:
    with pytest.raises(Permanent, match=r"pinball_1.5: the quantile is between 0 and 1"):
        metric("pinball_1.5")


def test_an_unknown_name_is_refused_with_the_closest_and_the_list() -> None:
    with pytest.raises(Permanent, match=r"no metric 'acuracy'; did you mean accuracy\?") as refused:
        metric("acuracy")
    assert "balanced_accuracy" in refused.value.remedy


@pytest.mark.parametrize("loads", [Profit, Profit(), lambda: Profit()])
def test_a_package_brings_a_metric(monkeypatch: pytest.MonkeyPatch, loads: object) -> None:
    install(monkeypatch, "profit", loads)
    assert metric("profit").name == "profit"
    assert "profit" in known("binary")


def test_a_package_brings_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("profit_<k>", frozenset({"ranking"}), lambda k: type("P", (Profit,), {"name": f"p{k}"})())
    install(monkeypatch, "profit_<k>", family)
    assert metric("profit_5").name == "p5"
    assert "profit_<k>" in known("ranking")


def test_a_package_cannot_take_our_names(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "auc", Profit)
    with pytest.raises(Permanent, match="calls its metric auc, and that name is ours"):
        metric("profit")


def test_what_is_no_metric_is_refused_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "profit", lambda: object())
    with pytest.raises(Permanent, match="lacks name, tasks"):
        metric("profit")


def test_a_package_that_breaks_is_named_with_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise RuntimeError("no licence\nsecond line")

    install(monkeypatch, "profit", breaks)
    with pytest.raises(Permanent, match=r"cannot be loaded: RuntimeError: no licence\n"):
        metric("profit")


def test_a_broken_package_is_no_trouble_to_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "profit", None)
    assert metric("auc").name == "auc"
