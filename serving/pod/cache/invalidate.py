"""Tells every pod to forget a model's answers.

`python -m serving.pod.cache.invalidate --redis URL MODEL [--bundle ID]`

When a version leaves (promotion ends the one before, rollback the candidate) its bundle's answers are
invalidated; those of the version that stays are kept, which is when it needs them most. Nothing depends on it
for correctness between versions, as keys hold the bundle: a whole model is invalidated when answers became
wrong without a new version.
"""

from __future__ import annotations

import argparse
import json
import sys

import redis

from model_store.errors import Retryable
from serving.pod.cache.link import CHANNEL, epoch_key


def invalidate(url: str, model: str, bundle: str = "") -> int:
    """Raise the epoch of the model, or of one bundle of it, and publish it; returns the new epoch.

    Raises `Retryable` without Redis.
    """
    try:
        with redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            epoch = int(client.incr(epoch_key(model, bundle)))
            client.publish(CHANNEL, json.dumps({"model": model, "bundle": bundle, "epoch": epoch}))
            return epoch
    except redis.RedisError as error:
        raise Retryable(
            f"Redis at {url} does not answer: {error}", remedy="start Redis, try again"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.pod.cache.invalidate", description=__doc__)
    parser.add_argument("--redis", required=True, help="redis://host:port/db")
    parser.add_argument("model")
    parser.add_argument("--bundle", default="", help="only this bundle of the model")
    found = parser.parse_args(arguments)
    try:
        invalidate(found.redis, found.model, found.bundle)
    except Retryable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
