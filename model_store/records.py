"""Values as JSON and back: what stages hand each other and manifests keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from model_store.types import Artifact, Check, GateReport, TensorSpec

Json = dict[str, Any]


def artifact_record(artifact: Artifact) -> Json:
    """The artifact without its path, which only this machine knows; `Store.open` reads it."""
    record = asdict(artifact)
    del record["path"]
    return record


def tensor_records(tensors: Iterable[TensorSpec]) -> list[Json]:
    """Name, datatype and shape of each."""
    return [{**asdict(tensor), "shape": list(tensor.shape)} for tensor in tensors]


def read_tensors(records: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """What `tensor_records` wrote."""
    return tuple(TensorSpec(r["name"], r["datatype"], tuple(r["shape"])) for r in records)


def report_record(report: GateReport) -> Json:
    """The report with all its checks."""
    return {"dataset_digest": report.dataset_digest, "checks": [asdict(check) for check in report.checks]}


def read_report(record: Mapping[str, Any]) -> GateReport:
    """What `report_record` wrote."""
    return GateReport(record["dataset_digest"], tuple(Check(**check) for check in record["checks"]))
