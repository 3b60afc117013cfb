"""Who is told what: over real sockets, at least once, and without holding anything up."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from slipway_airflow import outbox_trigger, receivers
from slipway_airflow.notifications import DeliverNotifications, Late, deliver_due

from model_store.errors import Permanent
from model_store.release_spec import load
from model_store.release_spec.notify import Notify
from serving.control import blockers
from serving.control.notifications import notify_of_hold, outbox_of
from serving.control.outbox import CLAIM_SECONDS, GIVE_UP, Message, Outbox
from serving.control.rollout.plan import Hold
from serving.inbound.deliveries import sign
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import MessageRow
from tests.airflow.test_rollbacks import released
from tests.airflow.test_runs import Runs
from tests.airflow.world import MODEL, SPEC, World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
AT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
WEBHOOK = Notify(to="webhook", url_env="HOOK_URL", secret_env="HOOK_SECRET")
SLACK = Notify(to="slack", url_env="SLACK_URL")
MAIL = Notify(to="email", connection="mail", addresses=("ada@example.org", "grace@example.org"))


def message(occasion: str = "rolled_back", **changed: Any) -> Message:
    said = {
        "id": f"fraud-v2-{occasion}",
        "occasion": occasion,
        "model": MODEL,
        "title": "fraud v2 was rolled back",
        "text": "2% of its attempts fail",
        "at": AT,
        "url": "http://127.0.0.1/slipway/releases/fraud-v2",
        "facts": {"asked for by": "ada"},
    }
    return Message(**{**said, **changed})


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted. `status` is what it answers, `delay` how long it thinks first."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status, self.delay = 200, 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                # Before thinking: who no longer waits for the answer has been heard all the same.
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                time.sleep(receiver.delay)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class MailServer(socketserver.ThreadingTCPServer):
    """As much SMTP as a client needs to leave a mail."""

    daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []
        server = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                to: list[str] = []
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    command = line.strip().upper()
                    if command == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        lines = list(iter(self.rfile.readline, b".\r\n"))
                        server.mails.append((to, b"".join(lines)))
                    elif command.startswith(b"RCPT"):
                        to.append(line.decode().partition("<")[2].partition(">")[0])
                    self.wfile.write(b"250 ok\r\n" if command != b"QUIT" else b"221 bye\r\n")

        super().__init__(("127.0.0.1", 0), Session)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    opened = Receiver()
    for name, value in (("HOOK_URL", opened.url), ("HOOK_SECRET", "hush"), ("SLACK_URL", opened.url)):
        monkeypatch.setenv(name, value)
    yield opened
    opened.shutdown()
    opened.server_close()


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    opened = MailServer()
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "slipway@example.org"}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": opened.server_address[1], "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(connection))
    yield opened
    opened.shutdown()
    opened.server_close()


class Clock:
    """The ledger's, which goes where it is told."""

    def __init__(self) -> None:
        self.at = AT


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> MemoryLedger:
    return MemoryLedger(now=lambda: clock.at)


@pytest.fixture
def outbox(ledger: MemoryLedger) -> Outbox:
    return Outbox(ledger)


def deliver(outbox: Outbox, clock: Clock) -> tuple[int, int]:
    return deliver_due(outbox, at=clock.at)


def test_a_webhook_is_signed_and_keeps_its_id_when_it_is_sent_again(receiver: Receiver) -> None:
    for minute in (0, 1):
        receivers.deliver(message(), WEBHOOK, at=AT + timedelta(minutes=minute))
    (headers, body), (again, _) = receiver.got
    seconds = int(headers["x-slipway-timestamp"])
    assert headers["x-slipway-signature"] == sign("hush", headers["x-slipway-delivery-id"], seconds, body)
    assert headers["x-slipway-delivery-id"] == again["x-slipway-delivery-id"] == "fraud-v2-rolled_back"
    assert json.loads(body)["title"] == "fraud v2 was rolled back"


def test_slack_shows_words_and_never_a_mention_that_somebody_put_into_a_name(receiver: Receiver) -> None:
    receivers.deliver(message(text="<!channel> & co", facts={"asked for by": "<@U1>"}), SLACK, at=AT)
    said = json.loads(receiver.got[0][1])
    assert "fraud v2 was rolled back" in said["text"]
    assert "&lt;!channel&gt; &amp; co" in json.dumps(said["blocks"])
    assert "<@" not in json.dumps(said)
    assert "<!" not in json.dumps(said)


def test_a_mail_reaches_everybody_named(mail_server: MailServer) -> None:
    receivers.deliver(message(title="one\nline: \r\nBcc: eve@example.org"), MAIL, at=AT)
    ((to, raw),) = mail_server.mails
    mail = message_from_bytes(raw)
    assert to == ["ada@example.org", "grace@example.org"]
    assert mail["Subject"] == "[slipway] one line: Bcc: eve@example.org"
    assert mail["Bcc"] is None
    assert "2% of its attempts fail" in str(mail.get_payload())


def test_an_address_and_its_secret_may_be_an_airflow_connection(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, path = receiver.url.rpartition("/")
    hook = {"conn_type": "http", "host": host, "password": "hush", "extra": {"path": f"/{path}"}}
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps(hook))
    receivers.deliver(message(), Notify(to="webhook", connection="hook"), at=AT)
    headers, body = receiver.got[0]
    assert headers["x-slipway-signature"] == sign("hush", message().id, int(AT.timestamp()), body)


def test_what_is_named_and_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_URL", raising=False)
    with pytest.raises(Permanent, match="HOOK_URL"):
        receivers.deliver(message(), WEBHOOK, at=AT)
    with pytest.raises(Permanent, match="no connection nowhere"):
        receivers.deliver(message(), Notify(to="slack", connection="nowhere"), at=AT)


def test_who_did_not_ask_for_an_occasion_is_not_told(outbox: Outbox) -> None:
    told = [WEBHOOK.model_copy(update={"occasions": ("held",)}), SLACK]
    assert [entry.receiver for entry in outbox.put(message(), told)] == [SLACK]


def test_a_receiver_that_is_down_is_told_when_it_is_back_and_the_others_at_once(
    outbox: Outbox, clock: Clock, receiver: Receiver, mail_server: MailServer
) -> None:
    receiver.status = 503
    outbox.put(message(), [WEBHOOK, MAIL])
    assert deliver(outbox, clock) == (1, 1)
    assert len(mail_server.mails) == 1
    receiver.status = 200
    clock.at = AT + timedelta(seconds=1)
    assert deliver(outbox, clock) == (0, 0), "not yet due again"
    clock.at = AT + timedelta(minutes=1)
    assert deliver(outbox, clock) == (1, 0)
    assert len(mail_server.mails) == 1


def test_what_was_told_is_not_told_again_when_a_task_is_cleared(
    outbox: Outbox, clock: Clock, receiver: Receiver
) -> None:
    for _ in range(2):
        outbox.put(message(), [WEBHOOK])
        deliver(outbox, clock)
    assert len(receiver.got) == 1


def test_a_message_whose_sender_died_over_it_is_sent_by_another_in_the_end(
    outbox: Outbox, ledger: MemoryLedger, clock: Clock, receiver: Receiver
) -> None:
    outbox.put(message(), [WEBHOOK])
    assert len(outbox.claim()) == 1
    assert deliver(Outbox(ledger), clock) == (0, 0), "it may be at it still"
    clock.at = AT + timedelta(seconds=CLAIM_SECONDS + 1)
    assert deliver(Outbox(ledger), clock) == (1, 0)


def test_two_senders_at_once_send_once(outbox: Outbox, clock: Clock, receiver: Receiver) -> None:
    receiver.delay = 0.3
    outbox.put(message(), [WEBHOOK])
    first = threading.Thread(target=deliver, args=(outbox, clock))
    first.start()
    deliver(outbox, clock)
    first.join()
    assert len(receiver.got) == 1


def test_one_who_was_too_slow_does_not_undo_what_another_did(
    outbox: Outbox, ledger: MemoryLedger, clock: Clock, receiver: Receiver
) -> None:
    outbox.put(message(), [WEBHOOK])
    (slow,) = outbox.claim()
    clock.at = AT + timedelta(seconds=CLAIM_SECONDS + 1)
    deliver(outbox, clock)
    outbox.failed(slow, at=clock.at)
    assert [letter.status for letter in ledger.find(MessageRow)] == ["sent"]


def test_a_receiver_that_is_down_all_day_holds_nobody_up(outbox: Outbox) -> None:
    (entry,) = outbox.put(message(), [WEBHOOK])
    weary = replace(entry, letter=replace(entry.letter, tries=1000))
    assert outbox.failed(weary, at=AT)
    assert outbox.due(at=AT) == []
    assert len(outbox.due(at=AT + timedelta(minutes=15))) == 1


def test_after_a_day_it_is_given_up_and_forgotten_after_a_week(
    outbox: Outbox, ledger: MemoryLedger, clock: Clock, receiver: Receiver
) -> None:
    receiver.status = 500
    outbox.put(message(), [WEBHOOK])
    clock.at = AT + GIVE_UP + timedelta(seconds=1)
    deliver(outbox, clock)
    assert outbox.due(at=AT + 2 * GIVE_UP) == []
    assert [(letter.id, letter.status) for letter in ledger.find(MessageRow)] == [
        ("fraud-v2-rolled_back.0", "given_up")
    ]
    assert ledger.prune(AT + timedelta(seconds=1), only=("letters",)) == {"letters": 1}


async def test_what_is_left_over_is_noticed(world: World) -> None:
    trigger = outbox_trigger.UndeliveredTrigger(seconds=0.01)
    box = outbox_of(world.services)
    box.put(message(at=datetime.now(UTC)), [WEBHOOK])
    assert trigger._left() == 0, "whoever wrote it is about to send it"
    box.put(message("held", at=datetime.now(UTC) - timedelta(minutes=1)), [WEBHOOK])
    async for event in trigger.run():
        assert event.payload == 1
        break


@pytest.fixture
def telling(world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """Releases of this test tell the receiver, by webhook and Slack."""
    from serving.control import releases

    told = load(SPEC).model_copy(update={"notify": (WEBHOOK, SLACK)})
    opened = releases.Releases.open
    monkeypatch.setattr(
        releases.Releases, "open", lambda self, request, spec, resolve: opened(self, request, told, resolve)
    )
    return receiver


def titles(receiver: Receiver) -> list[str]:
    return [json.loads(body)["title"] for headers, body in receiver.got if "x-slipway-signature" in headers]


def test_runs_tell_what_became_of_them_and_a_receiver_that_fails_or_hangs_fails_none(
    world: World, bag: DagBag, telling: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.types import Outcome

    monkeypatch.setattr(receivers, "SECONDS", 0.2)
    late = [timedelta(0)]
    world.rows = MemoryLedger(now=lambda: datetime.now(UTC) + late[0])
    telling.status, telling.delay = 500, 0.5
    assert Runs(bag).release("1").state == "success"
    world.journal.verdicts[0] = Outcome.FAIL
    assert Runs(bag).release("2").tasks["settle"] == {"success"}
    telling.status, telling.delay = 200, 0.0
    telling.got.clear()
    late[0] = timedelta(minutes=3)
    assert deliver_due(outbox_of(world.services), at=datetime.now(UTC) + late[0]) == (4, 0)
    assert titles(telling) == ["fraud v1 is released", "fraud v2 was rolled back"]


def test_a_notifier_that_breaks_fails_no_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway_airflow.notifications.outbox_of", lambda services: 1 / 0)
    DeliverNotifications()({})


def test_a_rollout_that_stands_still_is_told_once_and_one_that_holds_is_not(world: World) -> None:
    world.serve(1)
    state = world.journal.load(released(world, 2, steps=1))
    soon, late = (state.step_started_at + timedelta(seconds=s) for s in (5, 120))
    evidence = Hold("the error rate is not decided")
    assert blockers.reason_to_hold(state, evidence, at=soon) == ""
    assert blockers.reason_to_hold(state, evidence, at=late) == evidence.reason
    assert blockers.reason_to_hold(state, Hold("paused: ada looks at it"), at=soon)
    told = load(SPEC).model_copy(update={"notify": (WEBHOOK,)})
    world.keep(_with_spec(world.releases.load(state.release_id), told))
    for _ in range(2):
        notify_of_hold(world.services, state, "paused", at=late)
    (entry,) = outbox_of(world.services).due(at=late)
    assert entry.message.title == "fraud v2 is held at 10 %"


def _with_spec(release: Any, spec: Any) -> Any:
    from dataclasses import replace

    return replace(release, spec=spec)


async def test_a_missed_deadline_is_told_as_airflow_calls_it(world: World) -> None:
    release = world.release(2)
    told = _with_spec(release, load(SPEC).model_copy(update={"notify": (WEBHOOK,)}))
    world.keep(told)
    context: Any = {"dag_run": {"dag_run_id": release.request.run_id, "dag_id": f"release_{MODEL}"}}
    await Late(model=MODEL, seconds=60.0, context=context)
    (entry,) = outbox_of(world.services).due(at=datetime.now(UTC))
    assert (entry.message.occasion, entry.message.title) == ("late", "fraud v2 is late")


def test_a_spec_names_where_secrets_are_and_never_holds_them() -> None:
    from pydantic import ValidationError

    wrong: list[dict[str, Any]] = [
        {"to": "webhook", "url": "https://example.org/secret"},
        {"to": "webhook", "url_env": "URL"},
        {"to": "webhook", "url_env": "URL", "connection": "hook", "secret_env": "S"},
        {"to": "slack", "url_env": "https://hooks.slack.com/secret"},
        {"to": "email", "addresses": ["ada@example.org"]},
        {"to": "email", "connection": "mail", "addresses": ["ada@example.org\nBcc: eve@example.org"]},
        {"to": "pager", "connection": "x"},
        {"to": "slack", "connection": "x", "occasions": []},
        {"to": "slack", "connection": "x", "occasions": ["everything"]},
    ]
    for section in wrong:
        with pytest.raises(ValidationError):
            Notify.model_validate(section)
