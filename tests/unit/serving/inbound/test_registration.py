"""The webhook in a real MLflow, and what MLflow then sends."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

import pytest
from cryptography.fernet import Fernet

from model_store.registry import Registry
from model_store.registry.rest import Rest
from model_store.types import ModelRef
from serving.home import Home, Ports
from serving.inbound import registration
from serving.inbound.deliveries import Unsigned, require_signed, stamp_of
from serving.inbound.registry_events import read_event
from serving.inbound.secrets import rotate, secrets_of
from tests.mlflow_server import MlflowServer

pytestmark = pytest.mark.at_length

Sent = tuple[dict[str, str], bytes]


class Door(ThreadingHTTPServer):
    """Where Airflow would listen: keeps what comes."""

    def __init__(self) -> None:
        self.sent: Queue[Sent] = Queue()
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                door.sent.put(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def next(self, kind: str) -> Sent:
        """The next delivery of this kind; others are left out."""
        while True:
            headers, body = self.sent.get(timeout=20)
            event = json.loads(body)
            if f"{event['entity']}.{event['action']}" == kind:
                return headers, body


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """As `serving.local_stack.mlflow_config` starts it, as far as webhooks are concerned."""
    settings = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setitem(os.environ, name, value)
        server = MlflowServer(tmp_path_factory.mktemp("mlflow")).start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def door() -> Iterator[Door]:
    opened = Door()
    yield opened
    opened.shutdown()
    opened.server_close()


@pytest.fixture
def home(tmp_path: Path, mlflow: MlflowServer, door: Door) -> Home:
    return Home(tmp_path, Ports(mlflow=mlflow.port, airflow=int(door.server_address[1])))


def believed(home: Home, sent: Sent) -> bool:
    now = datetime.now(UTC)
    try:
        stamp_of(sent[0], now=now)
        require_signed(*sent, secrets_of(home).valid(now=now))
    except Unsigned:
        return False
    return True


def version(home: Home, name: str) -> ModelRef:
    rest = Rest(home.mlflow_url)
    rest.post("/registered-models/create", name=name)
    run = rest.post("/runs/create", experiment_id="0", start_time=0)["run"]["info"]
    made = rest.post("/model-versions/create", name=name, source=run["artifact_uri"], run_id=run["run_id"])[
        "model_version"
    ]
    return ModelRef(name, int(made["version"]))


def test_syncing_twice_leaves_one_webhook(home: Home) -> None:
    assert registration.sync(home).change == "created"
    again = registration.sync(home)
    assert again.change == "unchanged"
    assert again.url == home.airflow_url + "/slipway/webhooks/mlflow"
    ours = Rest(home.mlflow_url).get("/webhooks", max_results=100)["webhooks"]
    assert [one["name"] for one in ours] == ["slipway"]


def test_a_webhook_that_somebody_changed_is_put_right(home: Home) -> None:
    registered = registration.sync(home)
    Rest(home.mlflow_url).patch(f"/webhooks/{registered.webhook_id}", status="DISABLED")
    assert registration.sync(home).change == "updated"


def test_what_mlflow_sends_is_signed_so_that_we_believe_it(home: Home, door: Door) -> None:
    registration.sync(home)
    registry, ref = Registry(home.mlflow_url), version(home, "fraud")
    registry.set_alias(ref, "candidate")
    registry.set_tags(ref, {"team": "payments"})
    registry.delete_alias("fraud", "candidate")
    for kind in (
        "model_version.created",
        "model_version_alias.created",
        "model_version_tag.set",
        "model_version_alias.deleted",
    ):
        sent = door.next(kind)
        assert believed(home, sent), kind
        assert read_event(sent[1]).data.name == "fraud"


def test_a_test_delivery_is_sent_on_request(home: Home, door: Door) -> None:
    tried = registration.send_test(home, registration.sync(home).webhook_id)
    assert tried.succeeded
    assert believed(home, door.next("model_version.created"))


def test_a_rotation_loses_no_delivery_and_ends_the_old_secret(home: Home, door: Door) -> None:
    registration.sync(home)
    old = secrets_of(home).current
    rotate(home, now=datetime.now(UTC))
    version(home, "churn")  # MLflow does not know of it yet
    before = door.next("model_version.created")
    assert believed(home, before)
    registration.sync(home)
    version(home, "loans")
    after = door.next("model_version.created")
    assert believed(home, after)
    with pytest.raises(Unsigned):
        require_signed(*after, [old])
    with pytest.raises(Unsigned):
        require_signed(*before, [secrets_of(home).current])
