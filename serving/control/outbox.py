"""What people are to be told, until they are. Written down first, so that neither a crash nor a receiver that
is down loses it. One letter in the ledger for each message and receiver.

A letter waits until it was delivered, or could not be for a day. It is kept a while after that, so that the
same message is not written down again; the controller forgets it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

from model_store.release_spec.notify import Notify
from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.rows import MessageRow, saved

GIVE_UP = timedelta(days=1)
REMEMBER = timedelta(days=7)
FIRST_DELAY = timedelta(seconds=15)
LONGEST_DELAY = timedelta(minutes=15)
# So many letters are one process's at once, for so long: longer than their receivers are waited for.
AT_ONCE, CLAIM_SECONDS = 5, 90.0


@dataclass(frozen=True, slots=True)
class Message:
    """`id` is the same however often the message is written or delivered. `facts` are names and words."""

    id: str
    occasion: str
    model: str
    title: str
    text: str
    at: datetime
    url: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A message to one receiver, as the ledger has it."""

    letter: MessageRow
    message: Message
    receiver: Notify

    @classmethod
    def of(cls, letter: MessageRow) -> OutboxEntry:
        said = letter.document["message"]
        message = Message(**{**said, "at": datetime.fromisoformat(said["at"])})
        return cls(letter, message, Notify.model_validate(letter.document["receiver"]))


class Outbox:
    """The letters among `rows`. Many processes may use them at once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def put(self, message: Message, receivers: Sequence[Notify]) -> list[OutboxEntry]:
        """Write it down for every receiver that wants this occasion; returns what is new."""
        wanted = [(n, to) for n, to in enumerate(receivers) if message.occasion in to.occasions]
        letters = [_letter(message, to, n) for n, to in wanted]
        return [OutboxEntry.of(saved(letter)) for letter in letters if self._rows.create(letter)]

    def due(self, *, at: datetime) -> list[OutboxEntry]:
        """Those to be delivered now, the oldest first."""
        waiting = self._rows.find(MessageRow, status="waiting")
        return [OutboxEntry.of(letter) for letter in waiting if letter.next_at <= at]

    def claim(self) -> list[OutboxEntry]:
        """A few of those that are due now, for this process alone for a while."""
        return [OutboxEntry.of(one) for one in self._rows.claim(seconds=CLAIM_SECONDS, limit=AT_ONCE)]

    def delivered(self, entry: OutboxEntry) -> None:
        self._save(entry, status="sent")

    def failed(self, entry: OutboxEntry, *, at: datetime) -> bool:
        """Try again later. False: it was tried for a day, and is given up."""
        if at - entry.message.at > GIVE_UP:
            self._save(entry, status="given_up")
            return False
        # Bounded, because a timedelta overflows long before a day of tries is over.
        delay = min(FIRST_DELAY * 2 ** min(entry.letter.tries, 16), LONGEST_DELAY)
        self._save(entry, tries=entry.letter.tries + 1, next_at=at + delay)
        return True

    def _save(self, entry: OutboxEntry, **changed: object) -> None:
        # Whoever claimed it since, because this process took too long, says what came of it.
        with suppress(StaleGeneration):
            self._rows.save(replace(entry.letter, claimed_until=None, **changed))  # type: ignore[arg-type]


def _letter(message: Message, receiver: Notify, number: int) -> MessageRow:
    said = {**asdict(message), "at": message.at.isoformat()}
    return MessageRow(
        id=f"{message.id}.{number}",
        model=message.model,
        at=message.at,
        next_at=message.at,
        document={"message": said, "receiver": receiver.model_dump(mode="json")},
    )
