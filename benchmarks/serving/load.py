"""Load generators: wrk for HTTP/1.1, h2load for gRPC. Both are closed loops of so many connections."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_LONGEST_SECONDS = 600
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Load:
    """One run. Latencies in milliseconds; `failed` are answers other than 2xx, and broken connections.

    `per_second` counts what was answered well: a refusal is quick and would pass for speed.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def per_second(self) -> float:
        return max(self.requests - self.failed, 0) / self.seconds


def need(program: str) -> str:
    """The program's path. Raises `SystemExit` saying what to install."""
    path = shutil.which(program)
    if path is None:
        package = {"h2load": "nghttp2-client"}.get(program, program)
        raise SystemExit(f"{program} is missing: apt-get install {package}")
    return path


def write_script(
    path: Path, bodies: list[bytes], headers: dict[str, str], lengths: list[int] | None = None
) -> None:
    """A wrk script that sends these bodies in turn. `lengths`: the binary extension's header, per body."""
    lines = ["local reqs, i = {}, 0", "init = function(args)"]
    lines += [f"  wrk.headers[{name!r}] = {value!r}" for name, value in headers.items()]
    folder = path.with_suffix(".bodies")
    folder.mkdir(exist_ok=True)
    for number, body in enumerate(bodies):
        (folder / str(number)).write_bytes(body)
    lines += [
        f"  for n = 0, {len(bodies) - 1} do",
        f"    local f = io.open('{folder}/' .. n, 'rb'); local body = f:read('*a'); f:close()",
    ]
    if lengths is not None:
        table = ",".join(map(str, lengths))
        lines += [
            f"    local lengths = {{{table}}}",
            "    wrk.headers['Inference-Header-Content-Length'] = lengths[n + 1]",
        ]
    lines += [
        "    reqs[#reqs + 1] = wrk.format('POST', nil, nil, body)",
        "  end",
        "end",
        "request = function() i = i % #reqs + 1; return reqs[i] end",
    ]
    path.write_text("\n".join(lines) + "\n")


def wrk(url: str, script: Path, *, seconds: float, connections: int = 32) -> Load:
    """Run wrk on one thread."""
    command = [need("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency"]
    done = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, check=True)
    return parse_wrk(done.stdout)


def wrk_until_told(url: str, script: Path, *, over: Path, connections: int) -> None:
    """Run wrk until its script has made the file `over`: by itself wrk goes on for the time it was given.

    Raises `SystemExit` if that does not happen within `_LONGEST_SECONDS`.
    """
    command = [need("wrk"), "-t1", f"-c{connections}", f"-d{_LONGEST_SECONDS}s", "--timeout", "10s"]
    over.unlink(missing_ok=True)
    with subprocess.Popen([*command, "-s", str(script), url], stdout=subprocess.DEVNULL) as running:
        while not over.exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
    if not over.exists():
        raise SystemExit(f"{script} was not sent in {_LONGEST_SECONDS} s")


def parse_wrk(text: str) -> Load:
    """wrk's own report."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    if total is None:
        raise SystemExit(f"wrk said:\n{text}")
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = int(errors[1]) if errors else 0
    failed += sum(map(int, sockets[0])) if sockets else 0
    seconds = float(total[2]) * _UNITS[total[3]] / 1000
    return Load(int(total[1]), seconds, _percentile(text, "50%"), _percentile(text, "99%"), failed)


def _percentile(text: str, which: str) -> float:
    found = re.search(rf"^\s+{which}\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")


def h2load(url: str, body: Path, *, seconds: int, connections: int = 4, streams: int = 8) -> Load:
    """Run h2load as a gRPC client: so many connections with so many calls in flight on each."""
    command = [need("h2load"), "-t1", f"-c{connections}", f"-m{streams}", "-D", str(seconds), "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    log = body.with_suffix(".log")
    command += [*headers, "--log-file", str(log), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded", done.stdout)
    if total is None:
        raise SystemExit(f"h2load said:\n{done.stdout}")
    times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines() if line)
    log.unlink()
    p50, p99 = times[len(times) // 2] / 1000, times[int(len(times) * 0.99)] / 1000
    return Load(int(total[3]), seconds, p50, p99, int(total[2]) - int(total[3]))
