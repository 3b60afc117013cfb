"""Bundles of the benchmark's models, as the publisher lays them out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from benchmarks.serving.models import Subject, model_file
from tests.bundles import make_bundle


def bundle_of(subject: Subject, **serving: Any) -> Path:
    """A bundle called `m`, with the same settings that the peers get."""
    settings = {
        "max_batch_size": subject.max_batch_size,
        "max_queue_delay_ms": 2,
        "threads": 1,
        "timeout_ms": 10_000,
    }
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{subject.name}-"))
    warmup = dict(subject.requests()[0])
    model = onnx.load(model_file(subject))
    return make_bundle(folder, model, name="m", serving={**settings, **serving}, warmup=warmup)
