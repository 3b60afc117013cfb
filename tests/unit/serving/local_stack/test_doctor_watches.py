"""Whether Envoy could watch one more model is something a person is told before it ends for lack of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.gateway import watches
from serving.gateway.watches import TooManyWatches
from serving.home import Home, Ports
from serving.local_stack import doctor, lifecycle


@pytest.fixture
def home(tmp_path: Path) -> Home:
    for name in ("wine", "fraud"):
        (tmp_path / "envoy" / "routes" / name).mkdir(parents=True)
        (tmp_path / "envoy" / "routes" / name / "endpoints.json").write_text("{}")
    return Home(tmp_path, Ports())


def test_the_doctor_says_how_many_models_are_watched_of_how_many(home: Home) -> None:
    (found,) = doctor._watches(home)
    assert found.level is doctor.Level.FINE
    assert f"watch {watches.instance_limit()} files, and 2 models" in found.found


def test_the_doctor_says_what_to_do_when_no_more_can_be_watched(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = watches.instance_limit()
    assert limit is not None
    # As much as that many services: there is never room for them.
    monkeypatch.setattr(watches, "_SPARE", limit + 1)
    (found,) = doctor._watches(home)
    assert found.level is doctor.Level.BROKEN
    assert "fs.inotify.max_user_instances=" in found.remedy
    with pytest.raises(TooManyWatches, match="watch no more files"):
        lifecycle.up(home)
    assert not home.logs.exists()


def test_every_service_counts_before_envoy_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(watches, "require_spare", asked.append)
    watches.require_all(home)
    assert asked == [2 * 2 + watches._SPARE]


def test_a_system_without_inotify_is_no_trouble(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "_LIMIT", home.root / "nowhere")
    assert list(doctor._watches(home)) == []
