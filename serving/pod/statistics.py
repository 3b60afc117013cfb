"""What a model has done since the pod began, in the words of Triton's statistics extension.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
Durations are sums in nanoseconds, over as many requests as `count` says.
"""

from __future__ import annotations

from typing import Any

from serving.pod.repository import RepositoryEntry
from serving.pod.telemetry import Histogram, ModelMetrics

_NANOSECONDS = 1_000_000_000


def model_statistics(entry: RepositoryEntry) -> dict[str, Any]:
    """As `GET /v2/models/<m>/stats` and `ModelStatistics` answer; of a model not loaded, too."""
    metrics = entry.metrics
    return {
        "name": entry.name,
        "version": entry.version,
        "last_inference": int(metrics.last_batch_at * 1000),
        "inference_count": metrics.rows,
        "execution_count": sum(metrics.computed.counts),
        "inference_stats": _durations(metrics),
    }


def _durations(metrics: ModelMetrics) -> dict[str, dict[str, int]]:
    succeeded = metrics.codes.get(200, 0)
    failed = sum(metrics.codes.values()) - succeeded
    hits = sum(level.hits for level in metrics.caches.values()) + metrics.shared_in_flight
    misses = sum(level.misses for level in metrics.caches.values())
    # Nobody measures what reading and writing tensors or looking into a cache takes.
    return {
        "success": _duration(succeeded, metrics.total.total - metrics.failed_seconds),
        "fail": _duration(failed, metrics.failed_seconds),
        "queue": _of(metrics.queued),
        "compute_input": _duration(0, 0),
        "compute_infer": _duration(metrics.computed_calls, metrics.computed_call_seconds),
        "compute_output": _duration(0, 0),
        "cache_hit": _duration(hits, 0),
        "cache_miss": _duration(misses, 0),
    }


def _of(histogram: Histogram) -> dict[str, int]:
    return _duration(sum(histogram.counts), histogram.total)


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(max(seconds, 0) * _NANOSECONDS)}
