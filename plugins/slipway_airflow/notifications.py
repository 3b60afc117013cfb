"""Delivers what people are to be told (`serving.control.notifications`). No release waits for a receiver.

A notifier delivers it after the step has ended, and a watcher what could not be delivered then.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from model_store.errors import Permanent, Retryable
from serving.control.notifications import notify_of_lateness, outbox_of
from serving.control.outbox import Outbox, OutboxEntry

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

# Of one task's callback: the rest is the watcher's.
MOST_AT_ONCE = 20


class DeliverNotifications(BaseNotifier):
    """Delivers what is due, once. What fails stays for the watcher, and fails no task."""

    def notify(self, context: Context) -> None:
        from serving import composition
        from serving.control import wiring

        try:
            deliver_due(outbox_of(composition.wire()), at=wiring.now(), most=MOST_AT_ONCE)
        except Exception:
            self.log.exception("telling people has to wait")


class Late(BaseNotifier):
    """Writes down that a run is not over although its deadline is. Runs in the triggerer."""

    def __init__(self, model: str, seconds: float, context: Context | None = None) -> None:
        super().__init__(context)
        self.model = model
        self.seconds = seconds

    async def async_notify(self, context: Context) -> None:
        import asyncio

        from serving import composition
        from serving.control import wiring

        # Airflow gives deadlines the run as its API shows it.
        run: Any = context["dag_run"]
        run_id = str(run["dag_run_id"])
        services, at = composition.wire(), wiring.now()
        await asyncio.to_thread(notify_of_lateness, services, self.model, run_id, self.seconds, at=at)


def deliver_due(outbox: Outbox, *, at: datetime, most: int | None = None) -> tuple[int, int]:
    """Deliver what is due; returns how many were and were not."""
    done: list[bool] = []
    while (most is None or len(done) < most) and (entries := outbox.claim()):
        done += [_deliver(outbox, entry, at=at) for entry in entries]
    return done.count(True), done.count(False)


def _deliver(outbox: Outbox, entry: OutboxEntry, *, at: datetime) -> bool:
    from slipway_airflow import receivers

    try:
        receivers.deliver(entry.message, entry.receiver, at=at)
    except (Retryable, Permanent) as problem:
        log.warning("%s, to %s: %s", entry.message.id, entry.receiver.to, problem)
    except Exception:
        log.exception("%s, to %s", entry.message.id, entry.receiver.to)
    else:
        outbox.delivered(entry)
        return True
    if not outbox.failed(entry, at=at):
        log.error("%s, to %s: given up after a day", entry.message.id, entry.receiver.to)
    return False
