"""`python -m model_store.storage fetch URL/bundles/ID --into FOLDER`: a bundle, before a pod starts.

Exit status: 0 it is there; 21 it will never be (the text says why, and the remedy); 22 try again. Any other:
it was killed, and can be run again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model_store.errors import Permanent, SlipwayError
from model_store.storage.fetch import fetch
from model_store.unwritable import unwritable

DONE, REFUSED, RETRY = 0, 21, 22


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        limit = int(asked.cache_gb * 1e9)
        bundle = fetch(asked.url, asked.into, digest=asked.digest, cache=asked.cache, cache_bytes=limit)
    except (SlipwayError, OSError) as error:
        told = error if isinstance(error, SlipwayError) else unwritable(error)
        if told is None:
            raise
        sys.stderr.write(f"{told}\n")
        return REFUSED if isinstance(told, Permanent) else RETRY
    sys.stdout.write(f"bundle {bundle} is in {asked.into}\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_store.storage", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch", help="bring a bundle to a folder, verified")
    command.add_argument("url", metavar="URL/bundles/ID")
    command.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where it is to be")
    command.add_argument("--digest", default="", help="of its manifest.json: nothing else is taken")
    command.add_argument("--cache", type=Path, metavar="FOLDER", help="what pods of one machine share")
    command.add_argument(
        "--cache-gb", type=float, default=0.0, help="the most that is kept there (0: no limit)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
