"""How the components are where somebody else keeps them alive: in containers, or on other machines.

`SLIPWAY_COMPONENTS` lists them, `NAME=URL` with spaces between: http:// is asked and healthy below status
500, tcp:// has to take a connection. A name of several addresses is healthy when all of them are.
Airflow's loops, which listen nowhere, the API server tells of; pods their platform.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, urlsplit

import httpx

from model_store.errors import Permanent, SlipwayError
from serving import composition
from serving.home import Home
from serving.local_stack.components import AIRFLOW_HEALTH, HEARTBEATS
from serving.local_stack.lifecycle import ProgramStatus

COMPONENTS = "SLIPWAY_COMPONENTS"
RUNNING, AWAY = "RUNNING", "AWAY"
_SECONDS = 3.0


def are_elsewhere(environ: Mapping[str, str] = os.environ) -> bool:
    return bool(environ.get(COMPONENTS))


def statuses(home: Home, environ: Mapping[str, str] = os.environ) -> list[ProgramStatus]:
    """Components in the list's order, Airflow's loops, pods. Raises `Permanent` for a list that is none."""
    listed = _listed(environ.get(COMPONENTS, ""))
    # All are of this installation: no proxy of the environment may come between.
    with httpx.Client(timeout=_SECONDS, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda url: _shortcoming(client, url), listed.values())
        components = [_status(name, problem) for name, problem in zip(listed, answers, strict=True)]
        return [*components, *_loops(client, home), *_pods(home)]


def _listed(text: str) -> dict[str, SplitResult]:
    found = {}
    for each in text.split():
        name, _, url = each.partition("=")
        split = urlsplit(url)
        if not name or split.scheme not in ("http", "tcp") or not split.hostname or not split.port:
            raise Permanent(
                f"{COMPONENTS}: {each!r}", remedy="write NAME=http://HOST:PORT/PATH or tcp://HOST:PORT"
            )
        found[name] = split
    return found


def _status(name: str, problem: str | None) -> ProgramStatus:
    return ProgramStatus(name, AWAY if problem else RUNNING, 0, 0, problem)


def _shortcoming(client: httpx.Client, url: SplitResult) -> str | None:
    try:
        found = socket.getaddrinfo(url.hostname, url.port, type=socket.SOCK_STREAM)
    except OSError:
        return "is not there"
    problems = [_unanswered(client, url, str(address[0])) for *_, address in found]
    failed = [problem for problem in problems if problem]
    of = f" ({len(failed)} of {len(problems)})" if len(problems) > 1 else ""
    return f"{failed[0]}{of}" if failed else None


def _unanswered(client: httpx.Client, url: SplitResult, address: str) -> str | None:
    try:
        if url.scheme == "tcp":
            socket.create_connection((address, url.port or 0), timeout=_SECONDS).close()
            return None
        host = f"[{address}]" if ":" in address else address
        status = client.get(f"http://{host}:{url.port}{url.path}", headers={"host": url.netloc}).status_code
    except (OSError, httpx.HTTPError) as error:
        return f"does not answer ({type(error).__name__})"
    return f"answers {status}" if status >= httpx.codes.INTERNAL_SERVER_ERROR else None


def _loops(client: httpx.Client, home: Home) -> Iterator[ProgramStatus]:
    try:
        told = client.get(f"{home.airflow_url}{AIRFLOW_HEALTH}").raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        told = {}
    for name, loop in HEARTBEATS.items():
        said = told.get(loop, {})
        last = said.get(f"latest_{loop}_heartbeat") or "none is known"
        yield _status(name, None if said.get("status") == "healthy" else f"last heartbeat: {last}")


def _pods(home: Home) -> Iterator[ProgramStatus]:
    try:
        platform = composition.platform_of(home)
        for ref in platform.deployments():
            status = platform.status(ref)
            yield _status(f"pods {ref.id}", None if status.is_ready else status.reason)
    except SlipwayError as problem:
        yield _status("pods", problem.problem)
