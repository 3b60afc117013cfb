"""The webhook in MLflow: there once, for these events, with the present secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model_store.errors import Permanent
from model_store.registry.rest import Json, Rest
from serving.home import Home
from serving.inbound.registry_events import EVENTS
from serving.inbound.secrets import secrets_of

PATH = "/webhooks"
NAME = "slipway"
ENDPOINT = "/slipway/webhooks/mlflow"


@dataclass(frozen=True, slots=True)
class RegisteredWebhook:
    """The webhook as it is now. `change`: created, updated or unchanged."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    change: str


@dataclass(frozen=True, slots=True)
class TestDelivery:
    """What came of a test delivery: the status that MLflow was answered, or why there was none."""

    succeeded: bool
    words: str


def sync(home: Home, *, rest: Rest | None = None) -> RegisteredWebhook:
    """Create the webhook, or make the one that is there as it should be. Others of our name are removed.

    The secret is written every time: MLflow does not say which one it has. Raises `RegistryUnavailable`.
    """
    rest = rest or Rest(home.mlflow_url)
    wanted = {
        "name": NAME,
        "description": "Tells Slipway of new versions and moved aliases. Kept by `slipway webhooks sync`.",
        "url": home.airflow_url + ENDPOINT,
        "events": [{"entity": entity.upper(), "action": action.upper()} for entity, action in EVENTS],
        "secret": secrets_of(home).current,
        "status": "ACTIVE",
    }
    ours = [one for one in _all(rest) if one["name"] == NAME]
    for extra in ours[1:]:
        rest.delete(f"{PATH}/{extra['webhook_id']}")
    if not ours:
        made = rest.post(PATH, **wanted)["webhook"]
        return _registered(made, "created")
    made = rest.patch(f"{PATH}/{ours[0]['webhook_id']}", **wanted)["webhook"]
    return _registered(made, "unchanged" if _says_the_same(ours[0], wanted) else "updated")


def send_test(home: Home, webhook_id: str, *, rest: Rest | None = None) -> TestDelivery:
    """Let MLflow send one signed delivery of a made-up model, which starts nothing."""
    rest = rest or Rest(home.mlflow_url)
    entity, action = (part.upper() for part in EVENTS[0])
    said = rest.post(f"{PATH}/{webhook_id}/test", event={"entity": entity, "action": action})["result"]
    if said.get("success"):
        return TestDelivery(True, f"answered with status {said.get('response_status')}")
    return TestDelivery(
        False, str(said.get("error_message") or f"status {said.get('response_status')}")[:300]
    )


def require_received(tried: TestDelivery) -> None:
    """Raises `Permanent` when the test delivery was not taken."""
    if not tried.succeeded:
        raise Permanent(
            f"MLflow's test delivery did not arrive: {tried.words}",
            remedy="see whether Airflow's API server runs (`slipway status`), and its log",
        )


def _all(rest: Rest) -> list[Json]:
    found: list[Json] = []
    token = ""
    while True:
        page = rest.get(PATH, max_results=100, **({"page_token": token} if token else {}))
        found += page.get("webhooks", [])
        if not (token := page.get("next_page_token", "")):
            return found


def _says_the_same(there: Json, wanted: Json) -> bool:
    return all(there.get(key) == wanted[key] for key in ("url", "status")) and sorted(
        _names(there["events"])
    ) == sorted(_names(wanted["events"]))


def _registered(there: Json, change: str) -> RegisteredWebhook:
    return RegisteredWebhook(
        there["webhook_id"], there["url"], tuple(sorted(_names(there["events"]))), change
    )


def _names(events: list[Any]) -> list[str]:
    return [f"{event['entity']}.{event['action']}".lower() for event in events]
