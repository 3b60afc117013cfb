"""`python -m serving.pod --bundle DIR --port N`: one pod, until SIGTERM."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import uvloop

from model_store.attestation import VARIABLE, Trusted
from model_store.errors import Permanent, SlipwayError
from serving.pod.logs import write_json_lines
from serving.pod.management import parse
from serving.pod.pod import PodOptions, run

_SWITCH_SECONDS = 0.0005


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 drained, 1 the bundle cannot be served, 2 wrong arguments or a taken port."""
    write_json_lines()
    try:
        options = _options(arguments)
    except SlipwayError as error:
        logging.getLogger("slipway.pod").error("%s", error)
        return 1
    # The compute thread must not wait the interpreter's default 5 ms for a loop that is busy shedding.
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        uvloop.run(run(options))
    except SlipwayError as error:
        logging.getLogger("slipway.pod").error("%s", error)
        return 1
    except OSError as error:
        logging.getLogger("slipway.pod").error(
            "cannot listen on %s:%d%s: %s",
            *(options.host, options.port, f" and {options.management}" if options.management else "", error),
        )
        return 2
    return 0


def _options(arguments: list[str] | None) -> PodOptions:
    parser = argparse.ArgumentParser(prog="python -m serving.pod", description=__doc__)
    parser.add_argument(
        "--bundle", action="append", required=True, type=Path, help="bundle directory; repeatable"
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes a free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--management", type=parse, help="unix:PATH or HOST:PORT, where models are loaded and unloaded"
    )
    parser.add_argument("--slot", default="", help="blue or green, answered as x-slipway-slot")
    parser.add_argument("--max-body-mb", type=float, default=64)
    parser.add_argument("--drain-seconds", type=float, default=20)
    parser.add_argument(
        "--redis", default=os.environ.get("SLIPWAY_REDIS", ""), help="for specs with a shared cache"
    )
    parser.add_argument("--request-log", type=Path, default=os.environ.get("SLIPWAY_REQUEST_LOG") or None)
    parser.add_argument(
        "--unverified",
        action="store_true",
        help=f"serve what nobody signed, where {VARIABLE} names no keys: for bundles made by hand",
    )
    parser.add_argument(
        "--answer-warm-rows", action="store_true", help="ready only once its own warm rows were answered"
    )
    parser.add_argument(
        "--readers",
        type=int,
        default=int(os.environ.get("SLIPWAY_READERS") or 0),
        help="processes that read requests for this one: where it reads more bytes than one core can",
    )
    found = parser.parse_args(arguments)
    return PodOptions(
        bundles=tuple(found.bundle),
        host=found.host,
        port=found.port,
        management=found.management,
        slot=found.slot,
        faults=os.environ.get("SLIPWAY_FAULTS", ""),
        redis=found.redis,
        request_log=found.request_log,
        max_body_bytes=int(found.max_body_mb * 1024 * 1024),
        drain_seconds=found.drain_seconds,
        answer_warm_rows=found.answer_warm_rows,
        readers=found.readers,
        trusted=_trusted(unverified=found.unverified),
    )


def _trusted(*, unverified: bool) -> Trusted | None:
    """Raises `Permanent` where nobody said whose bundles are to be served."""
    if keys := os.environ.get(VARIABLE):
        return Trusted.parse(keys)
    if unverified:
        return None
    raise Permanent(
        f"a pod serves what was signed, and {VARIABLE} says no public key to verify it with",
        remedy=f'set {VARIABLE}="$(slipway store public-keys)", or say --unverified',
    )


def end(code: int) -> NoReturn:
    """Write what is left to write, then go at once.

    A thread may still be inside an engine, for a caller that has left. The interpreter's own way to end takes
    from it what it computes with, and the process aborts.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main())
