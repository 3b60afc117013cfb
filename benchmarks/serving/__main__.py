"""The pod beside other Python model servers, and beside its own promises.

    python -m benchmarks.serving [PART ...] [--rounds 3] [--seconds 5] [--models mlp cnn minilm]
                                 [--peers mlserver kserve litserve bentoml ray] [--json FILE]

Parts: peers protocols half cache soak (default: all). Needs `wrk` and `h2load` (apt-get install wrk
nghttp2-client) and uv; every peer gets an environment of its own under `.venvs/`. Ratios within one run mean
something on any machine; the absolute numbers only on a quiet one. Last comes one line of JSON: each target's
found value and limit. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serving import report
from benchmarks.serving.against_peers import compare
from benchmarks.serving.cached import hit_rate, hits_against_computing
from benchmarks.serving.load import need
from benchmarks.serving.models import SUBJECTS
from benchmarks.serving.protocols import speak
from benchmarks.serving.servers import PEERS
from benchmarks.serving.under_load import at_half_load, soak

PARTS = ("peers", "protocols", "half", "cache", "soak")


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    for program in ("wrk", "h2load", "uv"):
        need(program)
    kept: dict[str, Any] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended too
    targets: list[report.Target] = []
    for part in options.parts or PARTS:
        targets += _run(part, options, kept)
    report.targets(targets)
    if options.json:
        _keep(options.json, kept, targets)
    print(json.dumps({target.name: [round(target.found, 3), round(target.limit, 3)] for target in targets}))
    return 0 if all(target.is_met for target in targets) else 1


def _keep(path: Path, kept: dict[str, Any], targets: list[report.Target]) -> None:
    """Into the file, beside what other runs kept there: parts may be measured at different times."""
    found = json.loads(path.read_text()) if path.exists() else {}
    new = {target.name: asdict(target) for target in targets}
    earlier = {target["name"]: target for target in found.get("targets", [])}
    merged = {**found, **kept, "targets": list({**earlier, **new}.values())}
    path.write_text(json.dumps(merged, indent=1, default=str) + "\n")


def _run(part: str, options: argparse.Namespace, kept: dict[str, Any]) -> list[report.Target]:
    rounds, seconds = options.rounds, options.seconds
    if part == "peers":
        found = [compare(SUBJECTS[m], options.peers, rounds=rounds, seconds=seconds) for m in options.models]
        kept |= {f"{part} {one.subject}": asdict(one) for one in found}
        return [target for one in found for target in report.comparison(one)]
    if part == "protocols":
        spoken = {m: speak(SUBJECTS[m], rounds=rounds, seconds=seconds) for m in ("mlp", "cnn")}
        kept[part] = {m: [asdict(one) for one in rows] for m, rows in spoken.items()}
        return [target for m, rows in spoken.items() for target in report.protocols(m, rows)]
    if part == "half":
        halves = {m: at_half_load(SUBJECTS[m], rounds=rounds, seconds=seconds) for m in ("mlp", "cnn")}
        kept[part] = {m: asdict(one) for m, one in halves.items()}
        return [target for m, one in halves.items() for target in report.half_load(m, one)]
    if part == "cache":
        hits = hits_against_computing(SUBJECTS["cnn"], rounds=rounds, seconds=seconds)
        rate = hit_rate(SUBJECTS["mlp"], cache_mb=options.cache_mb)
        kept[part] = {"hits": [asdict(one) for one in hits], "rate": asdict(rate)}
        return report.cache(hits, rate)
    found_soak = soak(SUBJECTS["cnn"], seconds=options.soak_seconds)
    kept[part] = asdict(found_soak)
    return report.soak(found_soak)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--soak-seconds", type=int, default=60)
    parser.add_argument("--cache-mb", type=float, default=64)
    parser.add_argument("--models", nargs="+", choices=sorted(SUBJECTS), default=["mlp", "cnn", "minilm"])
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=list(PEERS))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
