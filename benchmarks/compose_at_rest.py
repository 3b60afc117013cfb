"""What docker-compose.yaml's stack takes at rest: `python -m benchmarks.compose_at_rest [SECONDS]`.

By service, the processor in percent of one core and memory without files that could be read again, of the
project that COMPOSE_PROJECT_NAME names (`slipway`); pods by their model. A table, then the same as a line of
JSON. Asks Docker, changes nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import docker
from rich.console import Console
from rich.table import Table

from model_store.errors import Permanent, SlipwayError

_PROJECT, _SERVICE = "com.docker.compose.project", "com.docker.compose.service"
_INSTALLATION, _MODEL = "slipway.installation", "slipway.service"


def measured(project: str, seconds: float) -> list[tuple[str, float, float]]:
    """Name, percent of one core, MiB; the most expensive first."""
    client = docker.from_env()
    named = {_PROJECT: _SERVICE, _INSTALLATION: _MODEL}
    found = {
        container: f"{'pod of ' if label == _INSTALLATION else ''}{container.labels[name]}"
        for label, name in named.items()
        for container in client.containers.list(filters={"label": f"{label}={project}"})
    }
    before = {container: _taken(container) for container in found}
    time.sleep(seconds)
    rows = []
    for container, name in found.items():
        (used, at, _), (more, later, memory) = before[container], _taken(container)
        rows.append((name, 100 * (more - used) / (later - at), memory / 2**20))
    return sorted(rows, key=lambda row: -row[1])


def _taken(container: Any) -> tuple[float, float, float]:
    """Processor seconds since it began, when that was read, and bytes: none of one that is starting again."""
    told = container.stats(stream=False, one_shot=True)
    memory = told["memory_stats"]
    details = memory.get("stats", {})
    files = details.get("total_inactive_file", details.get("inactive_file", 0))
    return (
        told["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        time.monotonic(),
        memory.get("usage", 0) - files,
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    project = os.environ.get("COMPOSE_PROJECT_NAME") or "slipway"
    rows = measured(project, seconds)
    if not rows:
        raise Permanent(
            f"no container of {project} runs", remedy="bring it up, or name it in COMPOSE_PROJECT_NAME"
        )
    table = Table("service", "% of a core", "MiB", box=None)
    for name, share, memory in [
        *rows,
        ("together", sum(row[1] for row in rows), sum(row[2] for row in rows)),
    ]:
        table.add_row(name, f"{share:.1f}", f"{memory:.0f}")
    Console().print(table)
    told = {
        "seconds": seconds,
        "load": round(os.getloadavg()[0], 1),
        "core_percent": round(sum(row[1] for row in rows), 1),
        "memory_mib": round(sum(row[2] for row in rows)),
        "services": {name: [round(share, 2), round(memory)] for name, share, memory in rows},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    try:
        main()
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
