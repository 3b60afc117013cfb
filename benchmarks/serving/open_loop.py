"""Load at a rate that does not wait for answers (h2load --rps over HTTP/1.1): twice a peak."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.load import need


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one status. Times in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float


class OpenLoad:
    """h2load under way. Each request starts when its time has come, on one of so many connections."""

    def __init__(
        self,
        url: str,
        body: Path,
        *,
        per_second: float,
        seconds: int,
        connections: int,
        headers: Iterable[str] = (),
    ) -> None:
        self._log = Path(tempfile.mkdtemp(prefix="bench-open-")) / "requests.log"
        rate = max(1, round(per_second / connections))
        command = [need("h2load"), "--h1", "-t1", f"-c{connections}", "-D", str(seconds), f"--rps={rate}"]
        command += ["-d", str(body), "--log-file", str(self._log), "-H", "content-type: application/json"]
        for header in headers:
            command += ["-H", header]
        self.per_second = rate * connections
        self._process = subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True)

    def finish(self) -> dict[int, Answers]:
        """Wait for the end; answers by status (0: broken connections)."""
        output = self._process.communicate()[0]
        if not re.search(r"requests: \d+ total", output):
            raise SystemExit(f"h2load said:\n{output}")
        times: dict[int, list[float]] = {}
        for line in self._log.read_text().splitlines():
            _, status, microseconds = line.split("\t")
            times.setdefault(max(int(status), 0), []).append(int(microseconds) / 1000)
        return {status: answers_of(found) for status, found in times.items()}


def answers_of(times: list[float]) -> Answers:
    """Milliseconds, in any order."""
    times.sort()
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return Answers(len(times), times[len(times) // 2], p99)
