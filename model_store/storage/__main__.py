"""`python -m model_store.storage`: `fetch` a bundle before a pod starts, `sync` the logs that pods write.

Exit status: 0 done; 21 it will never be (the text says why, and the remedy); 22 try again. Any other:
it was killed, and can be run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.storage.fetch import fetch
from model_store.storage.opening import open_storage
from model_store.storage.sync import Which, copy_new
from model_store.unwritable import unwritable

DONE, REFUSED, RETRY = 0, 21, 22
DAY_SECONDS = 86_400.0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        (_fetch if asked.command == "fetch" else _sync)(asked)
    except (SlipwayError, OSError) as error:
        told = error if isinstance(error, SlipwayError) else unwritable(error)
        if told is None:
            raise
        sys.stderr.write(f"{told}\n")
        return REFUSED if isinstance(told, Permanent) else RETRY
    return DONE


def _fetch(asked: argparse.Namespace) -> None:
    limit = int(asked.cache_gb * 1e9)
    bundle = fetch(asked.url, asked.into, digest=asked.digest, cache=asked.cache, cache_bytes=limit)
    sys.stdout.write(f"bundle {bundle} is in {asked.into}\n")


def _sync(asked: argparse.Namespace) -> None:
    source, target = open_storage(asked.source), open_storage(asked.target)
    while True:
        since = time.time() - asked.days * DAY_SECONDS
        which = Which(asked.pattern, int(asked.max_mb * 1e6), since, asked.add_name)
        try:
            copied = copy_new(source, target, which)
        except Retryable as error:
            if not asked.every:
                raise
            sys.stderr.write(f"{error}\n")
        else:
            if copied or not asked.every:
                sys.stdout.write(f"{len(copied)} new in {target.url}\n")
                sys.stdout.flush()
        if not asked.every:
            return
        time.sleep(asked.every)


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
    command = commands.add_parser("sync", help="copy what is new from one storage to another")
    command.add_argument("source", metavar="FROM", help="a URL")
    command.add_argument("target", metavar="TO", help="a URL")
    command.add_argument(
        "--every", type=float, default=0.0, metavar="SECONDS", help="again and again (0: once)"
    )
    command.add_argument("--pattern", default="*.parquet", help="names of files")
    command.add_argument("--days", type=float, default=7.0, help="nothing that is older")
    command.add_argument("--max-mb", type=float, default=0.0, help="the newest so many (0: all)")
    command.add_argument("--add-name", default="", help="into the names at the target, such as a pod's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
