"""What Prometheus is told to scrape."""

from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.gateway.router.memory import MemoryRouter
from serving.monitoring.config import targets
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Route, Slot


def deployment(service: str, version: int, slot: Slot, *ports: int) -> Deployment:
    endpoints = tuple(Endpoint("127.0.0.1", port) for port in ports)
    return Deployment(DeploymentRef(service, slot, f"b{version}", version), endpoints)


def test_both_arms_of_every_route_are_scraped() -> None:
    router = MemoryRouter()
    blue, green = deployment("fraud", 1, Slot.BLUE, 8500, 8501), deployment("fraud", 2, Slot.GREEN, 8502)
    router.write("fraud", ALL_STABLE, stable=blue, candidate=green, at=0)
    router.write("churn", ALL_STABLE, stable=deployment("churn", 1, Slot.BLUE, 8503), candidate=None, at=0)
    assert targets(router) == [
        {"targets": ["127.0.0.1:8503"], "labels": {"service": "churn", "slot": "blue"}},
        {"targets": ["127.0.0.1:8500", "127.0.0.1:8501"], "labels": {"service": "fraud", "slot": "blue"}},
        {"targets": ["127.0.0.1:8502"], "labels": {"service": "fraud", "slot": "green"}},
    ]


def test_a_route_that_cannot_be_read_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    router = MemoryRouter()
    for service in ("churn", "fraud"):
        stable = deployment(service, 1, Slot.BLUE, 8500)
        router.write(service, ALL_STABLE, stable=stable, candidate=None, at=0)
    read = router.read

    def broken(service: str) -> Route:
        if service == "churn":
            raise Permanent("torn", remedy="none")
        return read(service)

    monkeypatch.setattr(router, "read", broken)
    assert [group["labels"]["service"] for group in targets(router)] == ["fraud"]


def test_nothing_released_is_nothing_to_scrape(tmp_path: Path) -> None:
    assert targets(MemoryRouter()) == []
