"""One stage of a build for whoever is asked, wherever that is: everything in one JSON value, and JSON back.

Asked for is:

    spec        the release spec: YAML as text, or its values
    model       {"name": ..., "version": ...}
    registered  what the registry says of the version: run_id, source, created_at (left out: MLflow is asked)
    source      digest of the model's files, as `pack` kept them (left out: MLflow is asked)
    champion    {"version": ..., "bundle": ...} or null (left out: MLflow is asked)
    files       digest, or {"url": ..., "digest": ...}, of each file that the spec names, by what it writes
    docs        digest of the Data Docs so far
    exported, quantized, chosen     digests of what those stages made
    compiled, gated                 lists of such digests
    variant, target                 which one

Digests are of blobs in the store that `SLIPWAY_STORAGE_URL` names. Nothing else is read but the toolchain of
the machine and, for what is left out above, the MLflow that `MLFLOW_TRACKING_URI` names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from model_store import steps
from model_store.durable import digest_file
from model_store.errors import Permanent, Retryable, SlipwayError, first_line
from model_store.gates.choose import NothingPassed
from model_store.registry import Downloaded, ModelVersion, Registry
from model_store.registry.artifacts import describe
from model_store.release_spec import ReleaseSpec, load
from model_store.release_spec.freeze import STORED
from model_store.stages.base import BuildContext, Variant, Versions
from model_store.stages.inputs import located
from model_store.steps import StepResult
from model_store.storage.base import Corrupt
from model_store.storage.store import Store, pack, unpack
from model_store.storage.transfer import local_copy
from model_store.types import ModelRef, TargetName
from model_store.unwritable import unwritable

Json = dict[str, Any]
Status = Literal["done", "blocked", "refused", "retry"]
# Apart from what a shell, a signal or Python itself gives: any other status means that it was killed.
EXIT: dict[Status, int] = {"done": 0, "blocked": 20, "refused": 21, "retry": 22}


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedVersion(_Said):
    """A version."""

    name: str
    version: int


class Registered(_Said):
    """What a registry says of it."""

    run_id: str = ""
    source: str = ""
    created_at: datetime = datetime.fromtimestamp(0, UTC)


class Champion(_Said):
    """The version that serves, and the bundle it was released as."""

    version: int
    bundle: str


class Elsewhere(_Said):
    """A file in somebody's storage."""

    url: str
    digest: str = ""


class StageRequest(_Said):
    """See above."""

    spec: str | Json
    model: NamedVersion
    registered: Registered | None = None
    source: str | None = None
    champion: Champion | None = None
    files: dict[str, str | Elsewhere] = {}
    docs: str | None = None
    exported: str = ""
    quantized: str = ""
    compiled: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    chosen: str = ""
    variant: Json | None = None
    target: TargetName | None = None

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.model.name, self.model.version)

    def require(self, *names: str) -> None:
        """Raises `Permanent` naming what this stage needs and the request has not."""
        if lacking := [name for name in names if not getattr(self, name)]:
            raise Permanent(
                f"the request has no {', '.join(lacking)}",
                remedy="hand on what the stages before said as their `value`",
            )


def parse(content: bytes) -> StageRequest:
    """Raises `Permanent` naming each wrong field."""
    try:
        return StageRequest.model_validate_json(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise Permanent(f"this is no request for a stage: {wrong}", remedy="see docs/storage.md") from error


def _export(ctx: BuildContext, asked: StageRequest) -> StepResult:
    return steps.export(ctx)


def _check_data(ctx: BuildContext, asked: StageRequest) -> StepResult:
    asked.require("exported")
    return steps.check_data(ctx, asked.exported)


def _quantize(ctx: BuildContext, asked: StageRequest) -> StepResult:
    asked.require("exported", "variant")
    assert asked.variant is not None
    variant: Variant = {"precision": asked.variant["precision"], "layout": asked.variant["layout"]}
    return steps.quantize(ctx, asked.exported, variant)


def _compile(ctx: BuildContext, asked: StageRequest) -> StepResult:
    asked.require("quantized", "target")
    assert asked.target is not None
    return steps.compile(ctx, asked.quantized, asked.target)


def _gate(ctx: BuildContext, asked: StageRequest) -> StepResult:
    asked.require("exported", "quantized", "compiled")
    return steps.gate(ctx, asked.exported, asked.quantized, asked.compiled)


def _choose(ctx: BuildContext, asked: StageRequest) -> StepResult:
    asked.require("gated")
    return steps.choose(ctx, asked.gated)


def _publish(ctx: BuildContext, asked: StageRequest) -> StepResult:
    asked.require("exported", "gated", "chosen")
    return steps.publish(ctx, asked.exported, asked.gated, asked.chosen)


STAGES: dict[str, Callable[[BuildContext, StageRequest], StepResult]] = {
    "export": _export,
    "check_data": _check_data,
    "quantize": _quantize,
    "compile": _compile,
    "gate": _gate,
    "choose": _choose,
    "publish": _publish,
}


def run(stage: str, read: Callable[[], bytes], store: Store) -> Json:
    """Run one stage as the request that is read asks. What goes wrong is said in the answer; bugs raise."""
    try:
        asked = parse(read())
        with tempfile.TemporaryDirectory(prefix="slipway-stage-") as folder:
            return _answered(stage, asked, store, Path(folder))
    except SlipwayError as error:
        return _failed(stage, error)
    except OSError as error:
        if (full := unwritable(error)) is None:
            raise
        return _failed(stage, full)


def _answered(stage: str, asked: StageRequest, store: Store, work: Path) -> Json:
    docs = work / "docs"
    if asked.docs:
        unpack(store, asked.docs, docs)
    made = STAGES[stage](_context(asked, store, work, docs), asked)
    answer: Json = {"stage": stage, "status": "done", "value": made.value, "words": made.words}
    return {**answer, "docs": pack(store, docs)} if docs.is_dir() else answer


def _failed(stage: str, error: SlipwayError) -> Json:
    status: Status = "retry" if isinstance(error, Retryable) else "refused"
    if isinstance(error, NothingPassed):
        status = "blocked"
    answer: Json = {"stage": stage, "status": status, "problem": error.problem, "remedy": error.remedy}
    return {**answer, "delay_seconds": error.delay_seconds} if isinstance(error, Retryable) else answer


def _context(asked: StageRequest, store: Store, work: Path, docs: Path) -> BuildContext:
    spec = _spec(asked.spec, work)
    if spec.model != asked.model.name:
        raise Permanent(
            f"the spec releases {spec.model}, and the request is about {asked.model.name}",
            remedy="name a version of the spec's model",
        )
    files = {written: _file(store, written, where) for written, where in asked.files.items()}
    # Nothing is in this home: what the spec calls so has to be among the files.
    return BuildContext(store, _StagedRegistry(asked, store), spec, asked.ref, work / "home", docs, files)


def _spec(said: str | Json, work: Path) -> ReleaseSpec:
    if isinstance(said, str):
        path = work / "spec.yaml"
        path.write_text(said)
        return load(path)
    try:
        return ReleaseSpec.model_validate(said, context=STORED)
    except ValidationError as error:
        raise Permanent(f"the spec is not usable: {first_line(error)}", remedy="see docs/specs.md") from error


def _file(store: Store, written: str, where: str | Elsewhere) -> Path:
    if isinstance(where, str):
        return store.file(where, written)
    path = local_copy(where.url, store.root / "data")
    if where.digest and (found := digest_file(path)) != where.digest:
        raise Corrupt(
            f"{where.url} should be {where.digest} but its bytes are {found}",
            remedy="name the file as it is now, or put back what was there",
        )
    return path


class _StagedRegistry:
    """The registry as the request tells of it; MLflow where that says nothing."""

    def __init__(self, asked: StageRequest, store: Store) -> None:
        self._asked, self._store = asked, store

    def describe(self, ref: ModelRef) -> ModelVersion:
        """See `Versions`."""
        champion, registered = self._asked.champion, self._asked.registered
        if champion is not None and ref.version == champion.version:
            return _version(ref, Registered(), {"slipway.bundle": champion.bundle})
        if registered is not None and ref == self._asked.ref:
            return _version(ref, registered, {})
        return self._mlflow().describe(ref)

    def download(self, ref: ModelRef, folder: Path, *, max_size_mb: float) -> Downloaded:
        """See `Versions`."""
        if self._asked.source is None:
            return self._mlflow().download(ref, folder, max_size_mb=max_size_mb)
        unpack(self._store, self._asked.source, folder)
        found = describe(folder)
        if found.size_bytes > max_size_mb * 1e6:
            raise Permanent(
                f"{ref} holds {found.size_bytes / 1e6:.1f} MB, the limit is {max_size_mb:g} MB",
                remedy="make the model smaller, or raise source.max_size_mb in the spec",
            )
        return found

    def aliases(self, name: str) -> dict[str, int]:
        """The champion alone."""
        if "champion" in self._asked.model_fields_set:
            champion = self._asked.champion
            return {"champion": champion.version} if champion else {}
        return self._mlflow().aliases(name)

    @staticmethod
    def _mlflow() -> Versions:
        url = os.environ.get("MLFLOW_TRACKING_URI")
        if not url:
            raise Permanent(
                "the request leaves something to MLflow, and it is not known where that is",
                remedy="set MLFLOW_TRACKING_URI, or say `registered`, `source` and `champion`",
            )
        return Registry(url)


def _version(ref: ModelRef, said: Registered, tags: dict[str, str]) -> ModelVersion:
    return ModelVersion(ref, said.run_id, said.source, "", said.created_at, tags, ())


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request is made: the installation that knows the version and has the files."""

    store: Store
    registry: Versions
    home: Path


def request_of(origin: Origin, spec: ReleaseSpec, ref: ModelRef) -> Json:
    """What every stage of this version's build is asked with. The version's files and the rows are in the
    store then, so that no stage needs MLflow.
    """
    version, champion = origin.registry.describe(ref), _champion(origin.registry, ref)
    ctx = BuildContext(origin.store, origin.registry, spec, ref, origin.home)
    with origin.store.scratch() as folder:
        limit = spec.source.max_size_mb
        model = origin.registry.download(ref, folder / "model", max_size_mb=limit).folder
        source = pack(origin.store, model)
    return {
        "spec": spec.model_dump(mode="json"),
        "model": {"name": ref.name, "version": ref.version},
        "registered": {
            "run_id": version.run_id,
            "source": version.source,
            "created_at": version.created_at.isoformat(),
        },
        "source": source,
        "champion": champion,
        "files": {written: origin.store.put_file(located(ctx, written)) for written in _written(spec)},
    }


def _champion(registry: Versions, ref: ModelRef) -> Json | None:
    number = registry.aliases(ref.name).get("champion")
    if number is None or number == ref.version:
        return None
    bundle = registry.describe(ModelRef(ref.name, number)).tags.get("slipway.bundle")
    return {"version": number, "bundle": bundle} if bundle else None


def _written(spec: ReleaseSpec) -> list[str]:
    """The files that a spec names."""
    functions = [one.function.rpartition(":")[0] for one in spec.gates.custom]
    return [
        spec.data.evaluation,
        spec.data.calibration,
        *(path for path in functions if path.endswith(".py")),
    ]
