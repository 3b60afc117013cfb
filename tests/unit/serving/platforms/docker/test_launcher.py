"""What the launcher asks an Engine for, and how often. In a real Engine: `tests/docker`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving.platforms.docker.engine import FoundContainer
from serving.platforms.docker.launcher import Launcher
from serving.platforms.docker.records import DeploymentRecord, DeploymentRecords
from serving.platforms.docker.wanted import PodsRequest, Ref
from serving.types import Slot

WANTED = PodsRequest(ref=Ref(service="m", slot=Slot.BLUE, bundle_id="b", version=1), replicas=1)
RUNNING = FoundContainer("id", "pod", "what", 0, "10.0.0.9", "running", 0, 0, was_out_of_memory=False)


class EngineOfOne:
    """As far as a listing asks it: one pod, whose log grows."""

    def __init__(self) -> None:
        self.pod, self.reads = RUNNING, 0

    def pods(self) -> list[FoundContainer]:
        return [self.pod]

    def digest(self, wanted: PodsRequest) -> str:
        return self.pod.what

    def memory_mebi(self, wanted: PodsRequest) -> int:
        return 512

    def last_words(self, pod: FoundContainer) -> tuple[str, ...]:
        self.reads += 1
        return (f"said when its log was read the {self.reads}. time",)


def words(launcher: Launcher) -> tuple[str, ...] | None:
    (standing,) = launcher.listing().standing
    (pod,) = standing.pods
    return pod.death.words if pod.death else None


def test_a_log_is_read_once_for_each_death_and_of_who_lives_never(tmp_path: Path) -> None:
    records, engine = DeploymentRecords(tmp_path), EngineOfOne()
    records.write(DeploymentRecord(wanted=WANTED, addresses=("10.0.0.9",)))
    launcher = Launcher(engine, records)  # type: ignore[arg-type] - of an Engine only what is asked
    assert words(launcher) is None
    assert engine.reads == 0
    engine.pod = replace(RUNNING, state="exited", exit_code=1)
    first = words(launcher)
    # Docker starts it again, and it is asked about again and again.
    engine.pod = replace(RUNNING, restarts=1, exit_code=1)
    assert words(launcher) == words(launcher) == first
    assert engine.reads == 1
    engine.pod = replace(RUNNING, restarts=2, exit_code=1)
    assert words(launcher) != first
    assert engine.reads == 2


class EngineElsewhere(EngineOfOne):
    """A network of other addresses than the record has, and no pod yet."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    def pods(self) -> list[FoundContainer]:
        return []

    def can_give(self, addresses: tuple[str, ...]) -> bool:
        return all(each.startswith("10.1.") for each in addresses)

    def free_addresses(self, taken: set[str], count: int, *, after: str) -> tuple[str, ...]:
        return tuple(f"10.1.0.{number}" for number in range(1, count + 1))

    def start(self, wanted: PodsRequest, number: int, address: str) -> None:
        self.started.append(address)


def test_pods_of_a_backup_from_another_network_get_addresses_of_this_one(tmp_path: Path) -> None:
    """Docker refuses to start a container at an address that the network does not have, for ever."""
    records, engine = DeploymentRecords(tmp_path), EngineElsewhere()
    records.write(DeploymentRecord(wanted=WANTED, addresses=("10.0.0.9",), served=("10.0.0.9",)))
    launcher = Launcher(engine, records)  # type: ignore[arg-type] - of an Engine only what is asked
    launcher.look()
    launcher.look()
    assert engine.started == ["10.1.0.1"] * 2
    (record,) = records.all()
    assert (record.addresses, record.served) == (("10.1.0.1",), ())


def test_of_pods_that_run_the_network_is_not_asked(tmp_path: Path) -> None:
    """Every look would cost a question to Docker for each deployment: this Engine has no answer to it."""
    records, engine = DeploymentRecords(tmp_path), EngineOfOne()
    records.write(DeploymentRecord(wanted=WANTED, addresses=("10.0.0.9",)))
    Launcher(engine, records).look()  # type: ignore[arg-type] - of an Engine only what is asked
    assert records.all()[0].addresses == ("10.0.0.9",)
