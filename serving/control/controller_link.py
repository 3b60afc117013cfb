"""One process's connections to the controller's API: the token, errors as they were raised there, down or up.

Connections are kept and used again: a page asks several times, and a new one costs more than the answer.

Of several controllers one moves traffic. Who stands by says where that one is asked, and is believed: it has
the token already. Whoever answered last is asked first the next time. Asking another one what one did not
answer does no harm: whatever is asked may be repeated, and one that was stopped writes nothing after another
took over.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import httpx
import orjson

from model_store.errors import Permanent, Retryable
from serving.control import wire_errors
from serving.control.traffic import NotLeading
from serving.credentials import controller_token
from serving.home import Home

# It answers in milliseconds; a start asks a platform, and a rollback may wait for a disk.
TIMEOUT = httpx.Timeout(15.0, connect=2.0)
# Where another one can be asked: one that was stopped takes connections, and answers nothing.
TIMEOUT_OF_SEVERAL = httpx.Timeout(5.0, connect=1.0)
# Shorter than the controller keeps one that nobody uses, so that none is used which it just closed.
_LIMITS = httpx.Limits(keepalive_expiry=2.0)


class ControllerDown(Retryable):
    """It does not answer: weights stay as they are, and nothing begins."""


class ControllerLink:
    """Opens nothing before it is asked. Safe for threads, and for a process that forks."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def ask(self, method: str, path: str, said: object = None, *, seconds: float | None = None) -> Any:
        """What it answers, within `seconds`. Raises what it raised, `ControllerDown`, or `NotLeading` where
        the one that moves traffic does not answer and another has not taken over yet."""
        urls = self._home.controller_urls
        waiting, asked = sorted(urls, key=lambda url: url != _answered.get(urls)), set[str]()
        down: ControllerDown | None = None
        standby: NotLeading | None = None
        while waiting:
            asked.add(url := waiting.pop(0))
            try:
                told = self._ask(url, method, path, said, seconds)
            except NotLeading as problem:
                standby = problem
                waiting = [each for each in (problem.leader, *waiting) if each and each not in asked]
            except ControllerDown as problem:
                down = problem
            else:
                _answered[urls] = url
                return told
        raise standby or down or self._down(urls[0], "it has no address")

    def _ask(self, url: str, method: str, path: str, said: object, seconds: float | None) -> Any:
        headers = {"authorization": f"Bearer {controller_token(self._home)}"}
        usual = TIMEOUT if len(self._home.controller_urls) == 1 else TIMEOUT_OF_SEVERAL
        try:
            answer = _client().request(
                method,
                url + path,
                content=None if said is None else orjson.dumps(said),
                headers=headers,
                timeout=usual if seconds is None else httpx.Timeout(seconds, connect=2.0),
            )
        except httpx.HTTPError as problem:
            raise self._down(url, f"{type(problem).__name__}: {problem}") from problem
        return self._understood(url, answer)

    def _understood(self, url: str, answer: httpx.Response) -> Any:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Permanent(
                f"the controller at {url} refuses {self._home.controller_token}",
                remedy="is it another installation's? Start this one's: `./slipway up`",
            )
        try:
            told = orjson.loads(answer.content)
            if answer.is_success:
                return told
            error = wire_errors.from_json(told)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise self._down(url, f"something else answers there: {answer.status_code}") from problem
        raise error

    def _down(self, url: str, why: str) -> ControllerDown:
        return ControllerDown(
            f"the controller does not answer at {url} ({why})",
            remedy="`./slipway up` starts it; `./slipway rollback MODEL` returns traffic without it",
            delay_seconds=2,
        )


# By the addresses that an installation has, the one that answered last.
_answered: dict[tuple[str, ...], str] = {}
_guarded = threading.Lock()
_clients: dict[int, httpx.Client] = {}


def _client() -> httpx.Client:
    """This process's. One that was forked off must not speak on its parent's connections.

    Without environment: a proxy for the world outside must not see what is said here.
    """
    known = _clients.get(os.getpid())
    if known is None:
        with _guarded:
            known = _clients.get(os.getpid())
            if known is None:
                known = httpx.Client(timeout=TIMEOUT, limits=_LIMITS, trust_env=False, verify=False)
                _clients[os.getpid()] = known
    return known


def _forked() -> None:
    """A lock that somebody held while the process forked is held for good."""
    global _guarded
    _guarded = threading.Lock()


os.register_at_fork(after_in_child=_forked)
