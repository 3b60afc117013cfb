"""Tells every pod to forget a model's answers.

`python -m serving.runtime.cache.invalidate --redis URL MODEL`

Promotion and rollback call `invalidate`. Nothing depends on it for correctness between versions (keys hold
the bundle); it is for answers that became wrong without a new version, and to free memory early.
"""

from __future__ import annotations

import argparse
import json
import sys

import redis

from model_store.errors import Retryable
from serving.runtime.cache.link import CHANNEL, epoch_key


def invalidate(url: str, model: str) -> int:
    """Raise the model's epoch and publish it; returns the new epoch. Raises `Retryable` without Redis."""
    try:
        with redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            epoch = int(client.incr(epoch_key(model)))
            client.publish(CHANNEL, json.dumps({"model": model, "epoch": epoch}))
            return epoch
    except redis.RedisError as error:
        raise Retryable(
            f"Redis at {url} does not answer: {error}", remedy="start Redis, try again"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.runtime.cache.invalidate", description=__doc__)
    parser.add_argument("--redis", required=True, help="redis://host:port/db")
    parser.add_argument("model")
    found = parser.parse_args(arguments)
    try:
        invalidate(found.redis, found.model)
    except Retryable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
