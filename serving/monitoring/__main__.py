"""`python -m serving.monitoring [FOLDER]`: write the configuration of this installation's monitoring."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model_store.errors import SlipwayError
from serving.home import Home
from serving.monitoring.config import Options, write


def main() -> None:
    home, usual = Home.locate(), Options()
    parser = argparse.ArgumentParser(prog="python -m serving.monitoring", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=home.root / "monitoring")
    parser.add_argument("--alertmanager", default=usual.alertmanager, metavar="HOST:PORT")
    parser.add_argument("--notify-url", help="webhook that tells people of every alert")
    given = parser.parse_args()
    options = Options(alertmanager=given.alertmanager, notify_url=given.notify_url)
    for path in write(home, given.folder, options):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    try:
        main()
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
