"""Notices messages that nobody delivered: their receiver was down, or they came from outside of a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

# A task that writes a message delivers it, too, in its last moment. Only then is it left over.
OVERDUE = timedelta(seconds=8)
# A run that delivers takes a few seconds to begin.
QUIET_SECONDS = 20.0


class UndeliveredTrigger(BaseEventTrigger):
    """Tells that there are messages to deliver. Never ends."""

    def __init__(self, seconds: float = 2.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", {"seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            if left := await asyncio.to_thread(self._left):
                yield TriggerEvent(left)  # type: ignore[no-untyped-call]
                await asyncio.sleep(QUIET_SECONDS)
            await asyncio.sleep(self.seconds)

    def _left(self) -> int:
        """How many messages are overdue."""
        from serving import composition
        from serving.control import notifications, wiring

        try:
            return len(notifications.outbox_of(composition.wire()).due(at=wiring.now() - OVERDUE))
        except Exception:
            self.log.warning("looking again", exc_info=True)
            return 0
