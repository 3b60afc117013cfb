"""How a message reaches a webhook, Slack, or a mailbox.

Addresses and secrets come from Airflow's connections or from the environment, never from the spec.
"""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from model_store.durable import canonical_json
from model_store.errors import Permanent, Retryable
from model_store.release_spec.notify import Notify
from serving.control.outbox import Message
from serving.inbound.deliveries import sign

if TYPE_CHECKING:
    from airflow.sdk import Connection

SECONDS = 10.0
# Slack's limits are 3,000 for a section and 150 for a header.
LONGEST_TEXT, LONGEST_TITLE = 2900, 140
MARKS = {"promoted": "✅", "rolled_back": "⏪", "blocked": "⛔", "held": "✋", "approval": "🗳", "late": "⏰"}


class NotDelivered(Retryable):
    """The receiver is down, or does not want it. It is tried again."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, remedy="see the receiver, and `notify` in the spec")


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """Where a webhook goes, and what it is signed with."""

    url: str
    secret: str


def deliver(message: Message, to: Notify, *, at: datetime, environ: Mapping[str, str] = os.environ) -> None:
    """Raises `NotDelivered`, or `Permanent` when the spec names what does not exist here."""
    match to.to:
        case "webhook":
            _post_signed(message, _address(to, environ), at=at)
        case "slack":
            _post(_address(to, environ).url, canonical_json(slack(message)), {})
        case "email":
            _mail(message, to)


def slack(message: Message) -> dict[str, Any]:
    """Slack's incoming webhook: text for the notification, blocks for the channel."""
    title = f"{MARKS.get(message.occasion, '🔔')} {message.title}"[:LONGEST_TITLE]
    text = _for_slack(message.text)[:LONGEST_TEXT]
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": True}},
        {"type": "section", "text": {"type": "mrkdwn", "text": text or "-"}},
    ]
    said = " · ".join(f"{_for_slack(name)}: {_for_slack(words)}" for name, words in message.facts.items())
    link = f"<{message.url}|open>" if message.url else ""
    if context := " · ".join(filter(None, [said[:LONGEST_TEXT], link])):
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": context}]})
    return {"text": _for_slack(title), "blocks": blocks}


def mail(message: Message, to: Notify, sender: str) -> EmailMessage:
    """Plain text. The id makes mail programs show a repeat as the same mail."""
    made = EmailMessage()
    made["Subject"] = _one_line(f"[slipway] {message.title}")
    made["From"], made["To"] = sender, ", ".join(to.addresses)
    made["Date"] = format_datetime(message.at)
    made["Message-ID"] = f"<{message.id}@slipway>"
    facts = "\n".join(f"{name}: {words}" for name, words in message.facts.items())
    made.set_content("\n\n".join(filter(None, [message.text, facts, message.url])) + "\n")
    return made


def _post_signed(message: Message, address: WebhookAddress, *, at: datetime) -> None:
    """Signed as MLflow signs; the id stays the same, so that receivers know a repeat."""
    body = canonical_json({**asdict(message), "at": message.at.isoformat()})
    seconds = int(at.timestamp())
    headers = {
        "X-Slipway-Delivery-Id": message.id,
        "X-Slipway-Timestamp": str(seconds),
        "X-Slipway-Signature": sign(address.secret, message.id, seconds, body),
    }
    _post(address.url, body, headers)


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    import httpx

    said = {"Content-Type": "application/json", **headers}
    try:
        answer = httpx.post(url, content=body, headers=said, timeout=SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Not the error's own words: they may hold the address, which may be a secret.
        raise NotDelivered(f"the receiver does not answer ({type(error).__name__})") from None
    if not answer.is_success:
        raise NotDelivered(f"the receiver answers {answer.status_code}")


def _mail(message: Message, to: Notify) -> None:
    server = _connection(to.connection or "")
    extra = server.extra_dejson
    try:
        with _smtp(server, extra) as client:
            if server.login:
                client.login(server.login, server.password or "")
            client.send_message(mail(message, to, str(extra.get("from_email") or "slipway@localhost")))
    except (OSError, smtplib.SMTPException) as error:
        raise NotDelivered(f"the mail server does not take it ({type(error).__name__})") from None


def _smtp(server: Connection, extra: Mapping[str, Any]) -> smtplib.SMTP:
    """As Airflow's SMTP provider reads it: TLS unless `disable_ssl`, then STARTTLS unless `disable_tls`."""
    host, trusted = server.host or "localhost", ssl.create_default_context()
    if not extra.get("disable_ssl", False):
        return smtplib.SMTP_SSL(host, server.port or 465, timeout=SECONDS, context=trusted)
    client = smtplib.SMTP(host, server.port or 25, timeout=SECONDS)
    if not extra.get("disable_tls", False):
        client.starttls(context=trusted)
    return client


def _address(to: Notify, environ: Mapping[str, str]) -> WebhookAddress:
    if to.url_env:
        return WebhookAddress(
            _variable(to.url_env, environ), _variable(to.secret_env, environ) if to.secret_env else ""
        )
    connection = _connection(to.connection or "")
    return WebhookAddress(connection_url(connection), connection.password or "")


def connection_url(connection: Connection) -> str:
    """Of an HTTP connection: its host may be a whole address, or parts of one."""
    host = connection.host or ""
    if "://" not in host:
        port = f":{connection.port}" if connection.port else ""
        host = f"{connection.schema or 'https'}://{host}{port}"
    return host + str(connection.extra_dejson.get("path", ""))


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if not (value := environ.get(name)):
        raise Permanent(f"the environment has no {name}", remedy="set it where Airflow's tasks run")
    return value


def _connection(name: str) -> Connection:
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError

    try:
        found: Connection = Connection.get(name)
    except (AirflowNotFoundException, AirflowRuntimeError):
        raise Permanent(f"Airflow has no connection {name}", remedy="add it: Admin, Connections") from None
    return found


def _for_slack(words: str) -> str:
    """Slack's three special characters, so that nobody's model name becomes a link or a mention."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(words: str) -> str:
    return " ".join(words.split())
