"""webhooks sync, rotate: what MLflow tells Slipway, and with which secret."""

from __future__ import annotations

from datetime import UTC, datetime

from serving.cli.output import console, print_json
from serving.credentials import write_secret
from serving.home import Home
from serving.inbound import registration, secrets
from serving.inbound.registration import RegisteredWebhook, TestDelivery
from serving.monitoring.incidents import alert_token


def sync(home: Home, *, test: bool, as_json: bool) -> None:
    """Register the webhook in MLflow, or bring it up to date. Raises when a test delivery does not arrive."""
    registered = registration.sync(home)
    tried = registration.send_test(home, registered.webhook_id) if test else None
    _say(registered, tried, as_json=as_json)
    if tried:
        registration.require_received(tried)


def rotate(home: Home, *, as_json: bool) -> None:
    """A new secret, at MLflow and Alertmanager too; the old one is believed a while longer."""
    made = secrets.rotate(home, now=datetime.now(UTC))
    registered = registration.sync(home)
    token = home.root / "monitoring" / "alert-token"
    if token.exists():  # Alertmanager reads it anew for each delivery
        write_secret(token, alert_token(made.current))
    if as_json:
        until = made.previous_until.isoformat() if made.previous_until else None
        print_json({"webhook": registered.change, "previous_valid_until": until})
        return
    until_words = f"{made.previous_until:%H:%M:%S} UTC" if made.previous_until else "now"
    console.print(f"MLflow signs with a new secret; the old one is believed until {until_words}.")
    if not token.exists():
        console.print("Where Alertmanager runs with a copy of its token: write it anew (docs/monitoring.md).")


def _say(registered: RegisteredWebhook, tried: TestDelivery | None, *, as_json: bool) -> None:
    if as_json:
        test = {"test": tried.words} if tried else {}
        events = list(registered.events)
        print_json({"webhook": registered.change, "url": registered.url, "events": events, **test})
        return
    console.print(f"MLflow's webhook to {registered.url}: {registered.change}", soft_wrap=True)
    console.print(f"  events: {', '.join(registered.events)}")
    if tried:
        console.print(f"  test delivery: {tried.words}")
