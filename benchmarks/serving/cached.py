"""What the cache is worth: the throughput of hits, and the hit rate after warming up from the request log."""

from __future__ import annotations

import re
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving import load
from benchmarks.serving.bundles import bundle_of
from benchmarks.serving.models import Subject, binary_body, oip_body
from benchmarks.serving.servers import Running, bare_server, pod_server

KEYS, EXPONENT = 100_000, 1.1
# Requests of the log that warms the cache up, and of the trace that is measured.
LOGGED, MEASURED = 300_000, 100_000


@dataclass(frozen=True, slots=True)
class Hits:
    """Requests/s computed and from the cache, in one protocol; and what a server in Python does that looks at
    nothing and answers with fixed bytes."""

    protocol: str
    computed_per_second: float
    cached_per_second: float
    bare_per_second: float


def hits_against_computing(subject: Subject, *, rounds: int, seconds: float) -> list[Hits]:
    """The same requests with and without a cache that holds them all, in turn."""
    work = Path(tempfile.mkdtemp(prefix="bench-cache-"))
    requests = subject.requests()
    scripts = {"JSON": work / "json.lua", "binary": work / "binary.lua"}
    load.write_script(scripts["JSON"], [oip_body(r) for r in requests], {"Content-Type": "application/json"})
    binary = [binary_body(r) for r in requests]
    headers = {"Content-Type": "application/octet-stream"}
    load.write_script(scripts["binary"], [b for b, _ in binary], headers, [length for _, length in binary])
    body = oip_body(requests[0])
    rates: dict[tuple[str, int], list[float]] = {}
    with (
        pod_server(bundle_of(subject), body) as plain,
        pod_server(bundle_of(subject, cache={"max_mb": 256}), body) as cached,
        bare_server(body) as bare,
    ):
        for number in range(rounds + 1):
            for protocol, script in scripts.items():
                for place, server in enumerate((plain, cached, bare)):
                    found = load.wrk(server.url, script, seconds=1 if number == 0 else seconds)
                    if number:
                        rates.setdefault((protocol, place), []).append(found.per_second)
    return [Hits(protocol, *(median(rates[protocol, place]) for place in range(3))) for protocol in scripts]


@dataclass(frozen=True, slots=True)
class HitRate:
    """Of a trace over `KEYS` keys; `ideal` is what a cache that knew the distribution would reach."""

    cache_mb: float
    entries: int
    rate: float
    ideal: float


def hit_rate(subject: Subject, *, cache_mb: float) -> HitRate:
    """Serve a trace with the log on, start a new pod that warms up from it, serve another trace of the same
    distribution, and read the pod's own counts."""
    work = Path(tempfile.mkdtemp(prefix="bench-trace-"))
    bodies = _bodies(work, subject)
    rng = np.random.default_rng(3)
    weights = np.arange(1, KEYS + 1) ** -EXPONENT
    share = np.cumsum(weights / weights.sum())
    order = rng.permutation(KEYS)
    one = oip_body(subject.requests()[0])
    log = ("--request-log", str(work / "log"))
    serving = {"request_log": {"share": 1.0, "max_mb": 2048}, "cache": {"max_mb": cache_mb}}
    for name, length in (("log", LOGGED), ("trace", MEASURED)):
        trace = order[np.searchsorted(share, rng.random(length))]
        with pod_server(bundle_of(subject, **serving), one, *log) as pod:
            before = _counts(pod)
            _replay(pod, work / f"{name}.lua", bodies, trace)
            after = _counts(pod)
    hits, misses = after["hits"] - before["hits"], after["misses"] - before["misses"]
    entries = int(cache_mb * 2**20 / (after["bytes"] / max(after["kept"], 1)))
    return HitRate(cache_mb, entries, hits / (hits + misses), float(share[min(entries, KEYS) - 1]))


def _bodies(work: Path, subject: Subject) -> Path:
    rng = np.random.default_rng(11)
    path = work / "bodies.jsonl"
    with path.open("wb") as file:
        for _ in range(KEYS):
            file.write(oip_body(subject.rows(rng)) + b"\n")
    return path


def _replay(pod: Running, script: Path, bodies: Path, trace: np.ndarray) -> None:
    order = script.with_suffix(".trace")
    order.write_text("\n".join(map(str, trace.tolist())) + "\n")
    script.write_text(
        "local bodies, trace, i = {}, {}, 0\n"
        "init = function(args)\n"
        "  wrk.headers['Content-Type'] = 'application/json'\n"
        f"  for line in io.lines('{bodies}') do\n"
        "    bodies[#bodies + 1] = wrk.format('POST', nil, nil, line)\n"
        "  end\n"
        f"  for line in io.lines('{order}') do trace[#trace + 1] = tonumber(line) + 1 end\n"
        "end\n"
        "request = function()\n"
        "  i = i + 1\n"
        f"  if i == #trace then io.open('{script.with_suffix('.over')}', 'w'):close() end\n"
        "  return bodies[trace[math.min(i, #trace)]]\n"
        "end\n"
    )
    load.wrk_until_told(pod.url, script, over=script.with_suffix(".over"), connections=16)


def _counts(pod: Running) -> dict[str, float]:
    base = pod.url.split("/v2/")[0]
    with urllib.request.urlopen(f"{base}/metrics", timeout=30) as response:
        text = response.read().decode()

    def value(pattern: str) -> float:
        found = re.search(rf"^{pattern} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    return {
        "hits": value(r'slipway_cache_hits_total\{.*level="memory"\}')
        + value(r'slipway_cache_hits_total\{.*level="in_flight"\}'),
        "misses": value(r'slipway_cache_misses_total\{.*level="memory"\}')
        - value(r'slipway_cache_hits_total\{.*level="in_flight"\}'),
        "bytes": value(r"slipway_cache_bytes\{.*\}"),
        "kept": value(r"slipway_cache_entries\{.*\}"),
    }
