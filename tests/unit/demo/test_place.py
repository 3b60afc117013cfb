"""The demo's own directory: fresh every time, and never somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import place
from demo.place import MARK, fresh_home
from model_store.errors import Permanent
from model_store.installation import ROOT as REPOSITORY


def environ(root: Path) -> dict[str, str]:
    return {"SLIPWAY_HOME": str(root)}


def test_a_directory_that_does_not_exist_yet_is_made_and_marked(tmp_path: Path) -> None:
    home = fresh_home(environ(tmp_path / "new"))
    assert [path.name for path in home.root.iterdir()] == [MARK]


def test_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    home = fresh_home(environ(tmp_path / "demo"))
    (home.root / "mlflow").mkdir()
    (home.root / "mlflow" / "mlflow.db").write_text("old")
    (home.root / "link").symlink_to(tmp_path)
    fresh_home(environ(home.root))
    assert [path.name for path in home.root.iterdir()] == [MARK]


def test_what_was_fetched_stays_for_the_next_demo(tmp_path: Path) -> None:
    home = fresh_home(environ(tmp_path / "demo"))
    (home.cache / "mails-1.0").mkdir(parents=True)
    fresh_home(environ(home.root))
    assert (home.cache / "mails-1.0").is_dir()


def test_a_scenario_has_the_repositorys_dags_and_only_its_own_spec(tmp_path: Path) -> None:
    spec = REPOSITORY / "examples" / "service" / "mail_triage.yaml"
    home = fresh_home(environ(tmp_path / "demo"), spec=spec)
    own = home.root / "dags"
    assert [path.name for path in (own / "releases").iterdir()] == ["mail_triage.yaml"]
    dags = {path.name for path in (REPOSITORY / "dags").glob("*.py")}
    assert {path.name for path in own.glob("*.py")} == dags
    fresh_home(environ(home.root))
    assert not own.exists()
    assert dags == {path.name for path in (REPOSITORY / "dags").glob("*.py")}, (
        "emptying left the repository alone"
    )


def test_what_the_demo_did_not_make_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(Permanent, match="the demo did not make it"):
        fresh_home(environ(tmp_path))
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / MARK).exists()


def test_a_demo_that_still_runs_is_left_alone_and_the_remedy_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fresh_home(environ(tmp_path / "demo"))
    (home.root / "mlflow").mkdir()
    monkeypatch.setattr(place, "is_running", lambda environ: True)
    with pytest.raises(Permanent, match="slipway down"):
        fresh_home(environ(home.root))
    assert (home.root / "mlflow").exists()


def test_a_link_inside_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("mine")
    home = fresh_home(environ(tmp_path / "demo"))
    (home.root / "link").symlink_to(tmp_path / "elsewhere")
    fresh_home(environ(home.root))
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_without_slipway_home_the_demo_has_a_place_in_the_usual_one(tmp_path: Path) -> None:
    variables: dict[str, str] = {}
    usual = place.DemoHome.of(variables).root
    variables["SLIPWAY_HOME"] = ""
    assert place.default_root(variables) == usual / "demo"


def test_nothing_runs_in_a_home_that_is_empty(tmp_path: Path) -> None:
    assert not place.is_running(environ(tmp_path))
