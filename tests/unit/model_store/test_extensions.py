"""What stands behind a port is found by its name, ours and what packages bring alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.extensions import GATEWAYS, METRICS_SOURCES, PLATFORMS, Port
from model_store.release_spec import InvalidSpec, load
from serving.home import Home, Ports

CODE = "class Nomad:\n    def __init__(self, home):\n        self.home = home\n"
SPEC = """\
model: fraud
source: {flavor: onnx}
data: {evaluation: a.csv, calibration: b.csv, label: bad}
rollout: {steps: [{weight: 100, hold_seconds: 60}]}
serving:
  target: nomad
"""

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a package of one file into a site-packages: its module and its entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def lay(distribution: str, entry: str) -> None:
        module = entry.partition("=")[2].partition(":")[0].strip()
        (tmp_path / f"{module}.py").write_text(CODE)
        monkeypatch.delitem(sys.modules, module, raising=False)
        about = tmp_path / f"{distribution}-2.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
        (about / "entry_points.txt").write_text(f"[slipway.platforms]\n{entry}\n")

    return lay


def refusal(tmp_path: Path, text: str) -> str:
    (tmp_path / "fraud.yaml").write_text(text)
    with pytest.raises(InvalidSpec) as refused:
        load(tmp_path / "fraud.yaml")
    return refused.value.problem


@pytest.mark.parametrize("port", [PLATFORMS, GATEWAYS, METRICS_SOURCES], ids=lambda port: port.group)
def test_everything_of_ours_is_made_of_a_home(port: Port, tmp_path: Path) -> None:
    for name in port.own:
        assert port.load(name)(Home(tmp_path, Ports())) is not None


def test_a_package_of_one_file_brings_a_platform(install: Install, tmp_path: Path) -> None:
    install("slipway-nomad", "nomad = slipway_nomad_a:Nomad")
    (tmp_path / "fraud.yaml").write_text(SPEC)

    assert load(tmp_path / "fraud.yaml").serving.target == "nomad"
    assert PLATFORMS.known() == ["docker", "kubernetes", "local", "nomad"]
    assert PLATFORMS.load("nomad")("home").home == "home"


def test_a_spec_for_a_platform_that_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    said = refusal(tmp_path, SPEC)
    assert (
        "6: serving.target: there are `docker`, `kubernetes`, `local`; "
        "`nomad` comes with a package with an entry point" in said
    )
    assert "`slipway.platforms`" in said


def test_a_spec_that_was_kept_is_read_when_its_platform_is_gone(install: Install, tmp_path: Path) -> None:
    from model_store.release_spec import STORED, ReleaseSpec

    (tmp_path / "fraud.yaml").write_text(SPEC.replace("nomad", "local"))
    kept = load(tmp_path / "fraud.yaml").model_dump(mode="json")
    kept["serving"]["target"] = "gone"
    assert ReleaseSpec.model_validate(kept, context=STORED).serving.target == "gone"


@pytest.mark.parametrize("name", ["nomad", "local"])
def test_of_two_by_one_name_none_is_taken(install: Install, name: str) -> None:
    install("slipway-nomad", f"{name} = slipway_nomad_b:Nomad")
    if name != "local":
        install("others", f"{name} = others:Nomad")
    with pytest.raises(Permanent, match=rf"both bring a platform `{name}`"):
        PLATFORMS.load(name)


def test_a_package_that_does_not_load_is_named(install: Install) -> None:
    install("slipway-nomad", "nomad = slipway_nomad_c:Missing")
    with pytest.raises(Permanent, match=r"platform `nomad` of slipway-nomad 2\.0 cannot be loaded"):
        PLATFORMS.load("nomad")
