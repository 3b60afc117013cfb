"""Users of a stack, who ask a model over HTTP. Other programs speak to it by `demo.clients`.

Nothing of the product is imported there, here or in the tests of this folder: they go on holding, word for
word, when its code is moved or written anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from demo.traffic import Application


@dataclass
class Users(threading.Thread):
    """Ask a model at a steady rate. `failed`: answers that were no answers, since it first answered."""

    url: str
    rows: list[Application]
    rate_per_second: float = 30
    answered: int = 0
    failed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            asked = 0
            while not self._ended.wait(1 / self.rate_per_second):
                asked += 1
                self._ask(client, self.rows[asked % len(self.rows)])

    def _ask(self, client: httpx.Client, row: Application) -> None:
        try:
            status = client.post(self.url, content=row.body).status_code
        except httpx.HTTPError:
            return
        if status == httpx.codes.OK:
            self.answered += 1
        elif self.answered:
            self.failed.append(status)

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def asking(users: Users) -> Iterator[Users]:
    users.start()
    yield users
    users.end()
