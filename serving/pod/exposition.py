"""The pod's `/metrics`: every family of every model, in one place."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import TYPE_CHECKING

from model_store.engines import nvml
from model_store.engines.registry import ON_GPUS
from serving.pod.measuring import Measured
from serving.pod.model import ServedModel
from serving.pod.repository import Repository, RepositoryEntry
from serving.pod.telemetry import Exposition, label

if TYPE_CHECKING:
    from serving.pod.cache.link import RedisLink

# Each model with its labels.
Named = list[tuple[str, ServedModel]]


def exposition(
    repository: Repository, measured: Measured, *, connections: int, is_ready: bool, link: RedisLink | None
) -> bytes:
    """Prometheus text, version 0.0.4."""
    page = Exposition()
    named = [(_labels(model), model) for model in repository.models]
    page.family("slipway_requests_total", "counter", "Infer requests by HTTP status", _codes(repository))
    page.family("slipway_rows_total", "counter", "Rows computed", [(at, m.metrics.rows) for at, m in named])
    page.histograms(
        "slipway_request_seconds", "From arrival to answer", [(at, m.metrics.total) for at, m in named]
    )
    page.histograms(
        "slipway_queue_seconds", "From arrival to engine", [(at, m.metrics.queued) for at, m in named]
    )
    page.histograms("slipway_compute_seconds", "One batch", [(at, m.metrics.computed) for at, m in named])
    page.histograms("slipway_batch_rows", "Rows per batch", [(at, m.metrics.batch_rows) for at, m in named])
    page.family(
        "slipway_queue_rows", "gauge", "Rows waiting", [(at, m.batcher.queued_rows) for at, m in named]
    )
    engine = [(at, measured.engine_bytes.get((m.name, m.version), 0)) for at, m in named]
    page.family("slipway_engine_memory_bytes", "gauge", "Device memory of the engine", engine)
    restarts = [(at, m.restarts) for at, m in named]
    page.family(
        "slipway_engine_restarts_total",
        "counter",
        "Times the model's own process was started again",
        restarts,
    )
    cut = [(at, m.out_of_memory) for at, m in named]
    page.family("slipway_out_of_memory_total", "counter", "Batches that did not fit the device's memory", cut)
    page.family("slipway_dropped_total", "counter", "Requests not computed, by reason", _dropped(named))
    page.family(
        "slipway_fallbacks_total",
        "counter",
        "Answers of a fallback",
        [(at, m.metrics.fallbacks) for at, m in named],
    )
    limits = [(at, round(m.limit.limit, 1)) for at, m in named]
    page.family("slipway_concurrency_limit", "gauge", "Requests admitted at once", limits)
    largest = [(at, m.sizes.max_rows) for at, m in named]
    page.family("slipway_max_rows", "gauge", "Rows that one request may have", largest)
    page.family(
        "slipway_in_flight", "gauge", "Requests not answered yet", [(at, m.in_flight) for at, m in named]
    )
    page.family("slipway_cache_hits_total", "counter", "Answers not computed, by level", _hits(named))
    page.family("slipway_cache_misses_total", "counter", "Look-ups in vain, by level", _misses(named))
    page.family("slipway_cache_entries", "gauge", "Answers kept in the process", _cache_entries(named))
    page.family("slipway_cache_bytes", "gauge", "Kept answers in the process", _cache_bytes(named))
    if link is not None:
        page.family(
            "slipway_redis_errors_total", "counter", "Times Redis was slow or gone", [("", link.errors)]
        )
        page.family(
            "slipway_redis_resting", "gauge", "1 while answering without Redis", [("", int(link.is_resting))]
        )
    if any(model.engine.platform in ON_GPUS for model in repository.models):
        _add_gpu(page, measured.gpu)
    page.family("slipway_connections", "gauge", "Open HTTP connections", [("", connections)])
    page.family("slipway_ready", "gauge", "1 when the pod wants traffic", [("", int(is_ready))])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    page.family("process_cpu_seconds_total", "counter", "CPU time", [("", usage.ru_utime + usage.ru_stime)])
    page.family("process_resident_memory_bytes", "gauge", "Resident memory", [("", resident_bytes())])
    return page.text()


def _add_gpu(page: Exposition, found: nvml.GpuReading | None) -> None:
    """Nothing but `slipway_gpu_up 0` of a GPU whose driver does not answer: then nothing is known of it."""
    page.family("slipway_gpu_up", "gauge", "1 while the GPU's driver answers", [("", int(found is not None))])
    if found is None:
        return
    at = f'gpu="{label(found.uuid)}",name="{label(found.name)}"'
    gauges = (
        ("slipway_gpu_utilization_ratio", "Share of time in which a kernel ran", found.used),
        ("slipway_gpu_memory_used_bytes", "Memory in use, by everybody", found.memory_used_bytes),
        ("slipway_gpu_memory_total_bytes", "Memory there is", found.memory_total_bytes),
        ("slipway_gpu_temperature_celsius", "Of the chip", found.celsius),
        ("slipway_gpu_power_watts", "Drawn now", found.watts),
    )
    for name, text, value in gauges:
        page.family(name, "gauge", text, [(at, value)])
    slowed = [(f'{at},reason="{reason}"', 1.0) for reason in found.slowed_by]
    page.family("slipway_gpu_throttled", "gauge", "1 for each reason that holds the clock down", slowed)
    errors = [(at, found.uncorrected_errors)]
    page.family("slipway_gpu_ecc_uncorrected_total", "counter", "Errors of its memory that ECC found", errors)


def _dropped(named: Named) -> Iterator[tuple[str, float]]:
    for at, model in named:
        for reason, count in sorted(model.metrics.dropped.items()):
            yield f'{at},reason="{reason}"', count


def _hits(named: Named) -> Iterator[tuple[str, float]]:
    for at, model in named:
        if model.answers is not None:
            yield f'{at},level="in_flight"', model.metrics.shared_in_flight
        for level, counts in model.metrics.caches.items():
            yield f'{at},level="{level}"', counts.hits


def _misses(named: Named) -> Iterator[tuple[str, float]]:
    for at, model in named:
        for level, counts in model.metrics.caches.items():
            yield f'{at},level="{level}"', counts.misses


def _cache_entries(named: Named) -> Iterator[tuple[str, float]]:
    for at, model in named:
        if model.answers is not None and model.answers.memory is not None:
            yield at, model.answers.memory.entries()


def _cache_bytes(named: Named) -> Iterator[tuple[str, float]]:
    for at, model in named:
        if model.answers is not None and model.answers.memory is not None:
            yield at, model.answers.memory.size_bytes()


def resident_bytes() -> int:
    """The process's resident set, from /proc (Linux); the peak where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - one line, on a scrape's path
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _labels(model: ServedModel | RepositoryEntry) -> str:
    return f'model="{label(model.name)}",version="{label(model.version)}"'


def _codes(repository: Repository) -> Iterator[tuple[str, float]]:
    """Also of bundles that are not loaded, and of no model under a name that no model can have."""
    for entry in repository.entries:
        for code, count in sorted(entry.metrics.codes.items()):
            yield f'{_labels(entry)},code="{code}"', count
    yield 'model="(unknown)",version="",code="404"', repository.not_found
