"""`slipway store` and the nightly tidying of an installation that keeps what it builds in a bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.durable import digest_bytes
from serving import composition
from serving.cli.app import app
from serving.control import retention
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.router.kept import LedgerRouter
from serving.home import Home
from serving.ledger.memory import MemoryLedger
from tests import s3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[s3.Server]:
    with s3.server() as started:
        yield started


@pytest.fixture
def home(tmp_path: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Home:
    environment = {
        **s3_server.environment,
        "SLIPWAY_STORAGE_URL": s3_server.url(),
        "SLIPWAY_HOME": str(tmp_path),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ledger = MemoryLedger()
    monkeypatch.setattr(composition, "rows_of", lambda _: ledger)
    monkeypatch.setattr(composition, "router_of", lambda home: LedgerRouter(ledger, EnvoyFileRouter(home)))
    return Home.locate()


def write(folder: Path) -> None:
    (folder / "model").write_bytes(b"weights")
    files = {"model": digest_bytes(b"weights")}
    manifest = {"schema": 1, "id": "ab", "files": files, "artifacts": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_nothing_needs_is_tidied_out_of_the_bucket_and_the_cache(home: Home) -> None:
    services = composition.wire(home)
    services.store.publish("ab", write)
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["store", "show"])
    assert f"1 bundle in {services.store.url}" in shown.stdout
    assert "Nothing could be removed." in shown.stdout

    later = datetime.now(UTC) + timedelta(days=40)
    assert [one.name for one in retention.reclaimable(services, now=later).bundles] == ["ab"]
    assert retention.tidy(services, now=later).bundles == ("ab",)
    assert not services.store.has_bundle("ab")
    assert list(services.store.kept("bundles")) == []
    assert not services.store.bundle_path("ab").exists()
