"""A version's pods run where its spec says, and those of earlier versions are found where they were put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.release_spec import ReleaseSpec
from model_store.types import Bundle, GateReport, ModelRef
from serving.home import Home, Ports
from serving.platforms.base import refusal_of
from serving.platforms.by_spec import LOCAL, PlatformBySpec, platform_of
from serving.platforms.memory import MemoryPlatform
from serving.types import Slot
from tests.build_world import SPEC
from tests.contract.platform_contract import Bundles, PlatformContract, applied

BROKEN = f"{7:024x}"


@pytest.fixture
def there() -> dict[str, MemoryPlatform]:
    platforms = {"local": MemoryPlatform(), "nomad": MemoryPlatform()}
    # Of another machine, so to say: no address is both theirs.
    platforms["nomad"]._next_port = 30_000
    for platform in platforms.values():
        platform.fail(BROKEN, "ends at start")
    return platforms


@pytest.fixture
def platform(tmp_path: Path, there: dict[str, MemoryPlatform]) -> PlatformBySpec:
    return PlatformBySpec(tmp_path / "platforms", lambda name: there[name])


def bundle_of(folder: Path, service: str, version: int, target: str) -> Bundle:
    path = folder / f"{service}{version}{target}"
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps({"serving": {"target": target}}))
    return Bundle(f"{version:024x}", ModelRef(service, version), (), GateReport("", ()), path)


class TestVersionsOnTwoPlatformsByTurns(PlatformContract):
    @pytest.fixture
    def bundles(self, tmp_path: Path) -> Bundles:
        return lambda service, version: bundle_of(
            tmp_path, service, version, "nomad" if version % 2 else "local"
        )

    @pytest.fixture
    def unservable(self, tmp_path: Path) -> Bundle:
        return bundle_of(tmp_path, "broken", 7, "nomad")


def test_pods_run_where_the_spec_says_and_leave_where_it_said_before(
    platform: PlatformBySpec, there: dict[str, MemoryPlatform], tmp_path: Path
) -> None:
    old = applied(platform, bundle_of(tmp_path, "m", 1, "local"))
    assert there["local"].deployments() == [old]
    assert there["nomad"].deployments() == []

    new = applied(platform, bundle_of(tmp_path, "m", 2, "nomad"))
    assert there["local"].deployments() == []
    assert there["nomad"].deployments() == platform.deployments() == [new]
    assert platform.status(new) == there["nomad"].status(new)


def test_the_next_process_finds_what_this_one_put_anywhere(
    platform: PlatformBySpec, there: dict[str, MemoryPlatform], tmp_path: Path
) -> None:
    blue = applied(platform, bundle_of(tmp_path, "m", 1, "local"))
    green = applied(platform, bundle_of(tmp_path, "m", 2, "nomad"), Slot.GREEN)
    again = PlatformBySpec(tmp_path / "platforms", lambda name: there[name])

    assert again.deployments("m") == [blue, green]
    again.retire(green)
    # Who is not needed any more is not asked any more: it may be uninstalled.
    del there["nomad"]
    last = PlatformBySpec(tmp_path / "platforms", lambda name: there[name])
    assert last.deployments() == [blue]
    assert last.status(blue).is_ready


def test_what_is_not_installed_is_said_before_anything_is_ended(tmp_path: Path) -> None:
    platform = platform_of(Home(tmp_path, Ports()))
    with pytest.raises(
        Permanent, match="there is no platform `nomad`: there are `docker`, `kubernetes`, `local`"
    ):
        applied(platform, bundle_of(tmp_path, "m", 1, "nomad"))
    assert not (tmp_path / "platforms").exists()


def test_local_means_what_the_installation_says(tmp_path: Path, there: dict[str, MemoryPlatform]) -> None:
    """Also to a spec that names it outright, so a service is never in two places that are one."""
    platform = PlatformBySpec(tmp_path / "platforms", lambda name: there[name], usual="nomad")
    first = applied(platform, bundle_of(tmp_path, "m", 1, "local"))
    assert there["nomad"].deployments() == [first]
    applied(platform, bundle_of(tmp_path, "m", 1, "nomad"))
    assert there["nomad"].retired == []
    assert (there["local"].deployments(), platform.deployments()) == ([], [first])


@pytest.mark.parametrize(("target", "usual"), [("local", "docker"), ("docker", "local")])
def test_containers_refuse_before_the_build_what_they_cannot_run(
    tmp_path: Path, target: str, usual: str
) -> None:
    platform = platform_of(Home(tmp_path, Ports()), {LOCAL: usual})
    spec = ReleaseSpec.model_validate({**SPEC, "serving": {"target": target}})
    refusal = refusal_of(platform, spec, "python")
    assert refusal is not None
    assert "makes its own Python" in refusal.problem
    assert refusal_of(platform, spec, "onnxruntime") is None


def test_processes_refuse_nothing(tmp_path: Path) -> None:
    platform = platform_of(Home(tmp_path, Ports()), {})
    assert refusal_of(platform, ReleaseSpec.model_validate(SPEC), "python") is None
