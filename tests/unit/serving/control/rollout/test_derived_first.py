"""What the gateway derives from a route is written before a release is over and its pods may go."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase
from serving.gateway.bootstrap import prepare
from serving.gateway.paths import clusters_file
from serving.gateway.router import derived
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.router.kept import LedgerRouter
from serving.home import Home, Ports
from serving.ledger.memory import MemoryLedger
from serving.types import ALL_STABLE, RouteSettings, Slot
from tests.unit.serving.control.rollout.test_crashes_and_races import SHORT
from tests.unit.serving.world import RELEASE, SERVICE, World, deployed


class Scene:
    """A release in Envoy's files, promoted already; `breaks` lets the derived files be writable no more."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = Home(root, Ports())
        prepare(self.home)
        self.world, ledger = World(), MemoryLedger()
        self.router, self.journal = LedgerRouter(ledger, EnvoyFileRouter(self.home)), KeptJournal(ledger)
        self.rollouts = Rollouts(self.journal, self.router, now=self.world.now)
        self.stable, self.candidate = deployed(1, Slot.BLUE), deployed(2, Slot.GREEN)
        self.router.write(SERVICE, ALL_STABLE, stable=self.stable, candidate=None, at=0)
        self._monkeypatch, self._write = monkeypatch, derived.write_file

    def start(self) -> None:
        self.rollouts.start(RELEASE, SHORT, self.candidate, RouteSettings())

    def breaks(self) -> None:
        def full(path: Path, content: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self._monkeypatch.setattr(derived, "write_file", full)

    def is_mended(self) -> None:
        self._monkeypatch.setattr(derived, "write_file", self._write)

    @property
    def clusters(self) -> str:
        return clusters_file(self.home).read_text()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_a_release_is_not_done_while_the_gateway_has_the_old_version_for_stable(scene: Scene) -> None:
    scene.start()
    watching = scene.journal.load(RELEASE).with_phase(Phase.WATCHING, at=scene.world.now(), reason="test")
    scene.journal.save(watching, scene.journal.timeline(RELEASE)[0])
    scene.breaks()
    for _ in range(2):  # the second time the route says already that it is stable
        with pytest.raises(OSError, match="No space"):
            scene.rollouts.finish_watch(RELEASE)
        assert scene.journal.load(RELEASE).phase is Phase.WATCHING
    assert scene.router.read(SERVICE).stable == scene.candidate
    with pytest.raises(OSError, match="No space"):
        scene.rollouts.mend(RELEASE)
    scene.is_mended()
    assert scene.rollouts.mend(RELEASE)[0].phase is Phase.DONE
    assert str(scene.stable.endpoints[0].port) not in scene.clusters


def test_a_candidate_is_not_withdrawn_while_the_gateway_previews_it(scene: Scene) -> None:
    scene.start()
    scene.rollouts.roll_back(RELEASE, reason="test")
    scene.breaks()
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            scene.rollouts.withdraw(RELEASE)
    scene.is_mended()
    assert scene.rollouts.withdraw(RELEASE).candidate is None
    assert str(scene.candidate.endpoints[0].port) not in scene.clusters


def test_a_release_does_not_start_while_the_gateway_lacks_its_candidate(scene: Scene) -> None:
    scene.breaks()
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            scene.start()
    assert scene.journal.releases(SERVICE) == []
    scene.is_mended()
    scene.start()
    assert str(scene.candidate.endpoints[0].port) in scene.clusters
