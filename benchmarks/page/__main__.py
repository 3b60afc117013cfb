"""The Releases page with 300 models and 10,000 releases: its API's p99 at 50 requests/s, its first paint.

`./slipway bench page` seeds a home of its own, starts a stack on it (ports from `--port-base`), stops all but
Airflow's API server, and asks as a signed-in person would: a fixed schedule, so that a slow answer delays no
other request. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.page.home import seed
from model_store.installation import ROOT as REPOSITORY
from model_store.release_spec import load
from serving import composition
from serving.credentials import credentials_of
from serving.home import Home
from serving.local_stack.lifecycle import down, up
from serving.supervision.supervisor import Supervisor

console = Console(highlight=False)
API = "/slipway/api/v1"
LIMIT_P99_MS, LIMIT_PAINT_MS = 100.0, 1500.0
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: which kind, the status, and how long after its time on the schedule it was answered."""

    kind: str
    status: int
    ms: float


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="slipway-bench-page-") as folder:
        root, dags = Path(folder) / "home", Path(folder) / "dags"
        (dags / "releases").mkdir(parents=True)
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
        home = Home.locate({"SLIPWAY_HOME": str(root), "SLIPWAY_PORT_BASE": str(arguments.port_base)})
        spec = load(REPOSITORY / "dags" / "releases" / "credit_risk.yaml")
        now = datetime.now(UTC)
        home.root.mkdir(parents=True)
        with closing(composition.ledger_of(home, {})) as ledger:
            models = seed(home, ledger, spec, models=arguments.models, releases=arguments.releases, now=now)
        try:
            up(home)
            _stop_the_rest(home)
            _measure(home, models, arguments)
        finally:
            down(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench page", description=__doc__)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--releases", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--port-base", type=int, default=22_100)
    return parser.parse_args()


def _stop_the_rest(home: Home) -> None:
    """Two processes are measured, the page and the one it asks; the others would only take their cores."""
    control = Supervisor(home)
    for program in control.programs():
        if program.name not in ("airflow-api-server", "controller", "envoy"):
            control.stop(program.full_name)


def _measure(home: Home, models: Sequence[str], arguments: argparse.Namespace) -> None:
    token = _token(home)
    # The first request reads every file: a restart of Airflow is followed by one of these.
    cold = asyncio.run(_ask_once(home, token))
    answers = asyncio.run(_load(home, token, models, arguments))
    paints = _paints(home, token)
    _print(cold, answers, paints)
    every = [answer.ms for answer in answers]
    failed = sum(answer.status != 200 for answer in answers)
    result = {
        "benchmark": "page",
        "models": arguments.models,
        "releases": arguments.releases,
        "rate": arguments.rate,
        "requests": len(answers),
        "failed": failed,
        "p50_ms": round(statistics.median(every), 1),
        "p99_ms": round(_p99(every), 1),
        "first_request_ms": round(cold, 1),
        "first_paint_ms": paints,
        "passed": not failed
        and _p99(every) < LIMIT_P99_MS
        and (not paints or max(paints.values()) < LIMIT_PAINT_MS),
        "load_average": round(os.getloadavg()[0], 1),
    }
    console.print(json.dumps(result), soft_wrap=True)


def _token(home: Home) -> str:
    login = credentials_of(home)
    said = {"username": login.airflow_user, "password": login.airflow_password}
    answer = httpx.post(f"{home.airflow_url}/auth/token", json=said, timeout=30)
    return str(answer.raise_for_status().json()["access_token"])


async def _ask_once(home: Home, token: str) -> float:
    async with _client(home, token) as client:
        started = time.perf_counter()
        (await client.get(f"{API}/models")).raise_for_status()
        return 1000 * (time.perf_counter() - started)


def _client(home: Home, token: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=home.airflow_url, headers=headers, timeout=30, trust_env=False)


async def _load(home: Home, token: str, models: Sequence[str], arguments: argparse.Namespace) -> list[Answer]:
    """Everything the API reads, in the mix of people who look around while releases are under way."""
    async with _client(home, token) as client:
        wanted = await _addresses(client, models)
        for _, address in wanted:
            await client.get(address)
        chance = random.Random(1)
        start = time.perf_counter() + 0.5
        count = int(arguments.rate * arguments.seconds)
        asked = [
            _asked(client, *chance.choice(wanted), at=start + number / arguments.rate)
            for number in range(count)
        ]
        return list(await asyncio.gather(*asked))


async def _addresses(client: httpx.AsyncClient, models: Sequence[str]) -> list[tuple[str, str]]:
    found = (await client.get(f"{API}/models")).json()
    moving = [row["id"] for row in found["under_way"] if row["steps"]]
    over = (await client.get(f"{API}/releases?page=40")).json()["releases"]
    then = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        ("models", f"{API}/models"),
        ("models", f"{API}/models?page=5"),
        ("models", f"{API}/models?q=_1&only=under_way"),
        *(("model", f"{API}/models/{name}") for name in models[:3]),
        ("releases", f"{API}/releases"),
        ("releases", f"{API}/releases?page=150"),
        ("releases", f"{API}/releases?status=rolled_back"),
        *(("release", f"{API}/releases/{name}") for name in moving[:3]),
        ("release", f"{API}/releases/{over[0]['id']}"),
        *(("series", f"{API}/releases/{name}/series") for name in moving[:2]),
        ("history", f"{API}/history?page=2"),
        ("history", f"{API}/history?model={models[0]}"),
        ("serving-at", f"{API}/serving-at?at={then}"),
    ]


async def _asked(client: httpx.AsyncClient, kind: str, address: str, *, at: float) -> Answer:
    await asyncio.sleep(max(0.0, at - time.perf_counter()))
    answer = await client.get(address)
    return Answer(kind, answer.status_code, 1000 * (time.perf_counter() - at))


def _paints(home: Home, token: str) -> dict[str, float]:
    """Milliseconds to the first contentful paint in a fresh browser, by page."""
    if not CHROMIUM:
        return {}
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, path in (("overview", ""), ("releases", "releases"), ("history", "history")):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            context.add_cookies([{"name": "_token", "value": token, "url": home.airflow_url}])
            page = context.new_page()
            page.goto(f"{home.airflow_url}/slipway/{path}")
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
            # Not wait_for_function: the page's policy forbids the eval it is made of.
            while not page.evaluate(paint):
                page.wait_for_timeout(20)
            found[name] = round(float(page.evaluate(paint)), 1)
            context.close()
        browser.close()
    return found


def _print(cold: float, answers: Sequence[Answer], paints: dict[str, float]) -> None:
    table = Table("what", "requests", "p50 ms", "p99 ms", "longest ms", title="Releases page")
    kinds: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        kinds[answer.kind].append(answer.ms)
    for kind, times in [*sorted(kinds.items()), ("all", [answer.ms for answer in answers])]:
        figures = (statistics.median(times), _p99(times), max(times))
        table.add_row(kind, str(len(times)), *(f"{figure:.1f}" for figure in figures))
    for name, paint in paints.items():
        table.add_row(f"first paint, {name}", "1", "", "", f"{paint:.0f}")
    table.add_row("first request after a start", "1", "", "", f"{cold:.0f}")
    console.print(table)


def _p99(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]


if __name__ == "__main__":
    main()
