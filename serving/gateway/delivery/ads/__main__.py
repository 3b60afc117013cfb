"""`python -m serving.gateway.delivery.ads`: serves the home's Envoys until it is told to end.

Where the process that moves traffic does not do it itself.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading

from model_store.errors import SlipwayError
from serving.gateway.delivery.ads.source import Ads
from serving.home import Home


def main(home: Home) -> None:
    """Raises `Permanent` if it cannot listen."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    server = Ads(home).server()
    server.start()
    ending.wait()
    server.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        main(Home.locate())
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
