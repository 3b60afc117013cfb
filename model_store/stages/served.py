"""A candidate as a pod would run it: the built bytes in the pod's own engine, at the pod's batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from model_store.archives import unpack
from model_store.arrays import Rows, count_rows, spread
from model_store.bundle.publishing import ARCHIVE
from model_store.engines.base import Engine
from model_store.engines.manifest import Manifest, Settings, read_manifest
from model_store.engines.noise import noise_of, rows_that_differ
from model_store.engines.python import SERVE_FILE
from model_store.engines.registry import ON_GPUS, open_engine
from model_store.engines.signature import Signature, tensor_spec
from model_store.errors import Permanent
from model_store.explained import explain
from model_store.inference import batches, session_config
from model_store.stages.base import BuildContext, Exported
from model_store.texts import as_bytes, as_text
from model_store.types import Artifact, Check

Array = np.ndarray[Any, Any]

# As many rows settle whether an answer depends on its batch (docs/gates.md).
SETTLED_ON = 64


class EngineNotHere(Permanent):
    """The engine cannot be opened on this machine: nothing is known of what it would answer."""


class JudgedModel:
    """One loaded model. `answer` may be called from one thread at a time."""

    def __init__(self, engine: Engine, manifest: Manifest, kept: ExitStack | None = None) -> None:
        self._engine, self._kept = engine, kept or ExitStack()
        self._signature = manifest.signature
        self.largest_batch = min([manifest.settings.max_batch_size, *engine.profiles[-1:]])
        self.precision = manifest.precision

    @classmethod
    def of_artifact(cls, ctx: BuildContext, exported: Exported, artifact: Artifact, *, platform: str) -> Self:
        """A candidate that is in no bundle yet. Raises `Permanent`: EngineNotHere when `platform` cannot run
        on this machine, else what the engine says of the file.
        """
        kept = ExitStack()
        try:
            file = _unpacked(ctx, artifact, kept)
            manifest = cls._manifest(ctx, exported, artifact, file, platform)
            return cls(_opened(manifest), manifest, kept)
        except BaseException:
            kept.close()
            raise

    @staticmethod
    def _manifest(
        ctx: BuildContext, exported: Exported, artifact: Artifact, file: Path, platform: str
    ) -> Manifest:
        inputs, outputs = (
            tuple(tensor_spec(one["name"], one["datatype"], one["shape"]) for one in exported[role])
            for role in ("inputs", "outputs")
        )
        return Manifest(
            id=artifact.digest.removeprefix("sha256:")[:24],
            name=ctx.spec.model,
            version=str(ctx.ref.version),
            platform=platform,
            precision=artifact.precision,
            digest=artifact.digest,
            file=file,
            warmup=None,
            signature=Signature.of(inputs, outputs),
            settings=Settings(
                max_batch_size=ctx.spec.serving.max_batch_size,
                threads=ctx.spec.serving.threads,
                timeout_ms=ctx.spec.serving.timeout_ms,
                max_memory_mb=ctx.spec.serving.max_memory_mb or 0,
            ),
            session_config=session_config(artifact.precision) if platform == "onnxruntime" else {},
            serving={},
            toolchain=asdict(artifact.toolchain),
        )

    @classmethod
    def of_bundle(cls, bundle: Path) -> Self:
        """A published version, by its manifest. Raises as `of_artifact`."""
        manifest = read_manifest(bundle)
        return cls(_opened(manifest), manifest)

    @property
    def noise(self) -> float:
        """What of its answers' digits is (`model_store.engines.noise`)."""
        return noise_of(self.precision, self._engine.platform)

    @property
    def gpu_memory_bytes(self) -> int:
        """What it takes of the GPU by now; 0 where it takes none."""
        # A process of its own counts the machine's memory.
        return self._engine.memory_bytes() if self._engine.platform in ON_GPUS else 0

    def encoded(self, rows: Rows) -> dict[str, Array]:
        """The rows as engines take them: text as bytes."""
        return as_bytes(rows)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """One batch of encoded rows, as large as it is."""
        return self._engine.run([feed[spec.name] for spec in self._signature.inputs])

    def answer(self, rows: Rows, *, batch_size: int = 0) -> dict[str, Array]:
        """All outputs for all rows, by output name, in batches of `batch_size` (0: the largest that pods
        make). Raises what the engine raises, and `Permanent` unless each row has an answer of its own.
        """
        names = [spec.name for spec in self._signature.outputs]
        size = min(batch_size or self.largest_batch, self.largest_batch)
        parts = [self._batch(batch) for batch in batches(self.encoded(rows), size)]
        columns = [[part[place] for part in parts] for place in range(len(names))]
        return as_text({name: np.concatenate(c) for name, c in zip(names, columns, strict=True)})

    def alone_as_in_company(self, rows: Rows) -> Check:
        """Whether rows get the same answers one by one as in full batches, whoever else is in them."""
        few = spread(rows, SETTLED_ON)
        chosen = {name: array[few] for name, array in rows.items()}
        alone, together = self.answer(chosen, batch_size=1), self.answer(chosen)
        differ = rows_that_differ(alone, together, self.noise)
        return Check(
            "answers alone as in a batch",
            observed=float(differ),
            limit=0.0,
            passed=differ == 0,
            detail=f"{differ} of {len(few)} rows differ between one and {self.largest_batch} rows at a time",
            direction="at_most",
        )

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()
        self._kept.close()

    def _batch(self, feed: Mapping[str, Array]) -> list[Array]:
        count = count_rows(feed)
        size = next((size for size in self._engine.profiles if size >= count), count)
        outputs = self.run({name: _grown(array, size) for name, array in feed.items()})
        for spec, array in zip(self._signature.outputs, outputs, strict=True):
            if np.shape(array)[:1] != (size,):
                raise Permanent(
                    f"output `{spec.name}` has shape {list(np.shape(array))} for {size} rows",
                    remedy="export it with the rows as the first dimension of every output",
                )
        return [array[:count] for array in outputs]


def _unpacked(ctx: BuildContext, artifact: Artifact, kept: ExitStack) -> Path:
    """The file that the engine opens; of an archive its folder is there until `kept` is closed."""
    if artifact.format != ARCHIVE:
        return artifact.path
    folder = kept.enter_context(ctx.store.scratch())
    unpack(artifact.path, folder)
    return folder / SERVE_FILE


def _opened(manifest: Manifest) -> Engine:
    try:
        return open_engine(manifest)
    except Exception as error:  # libraries of GPUs raise OSError, RuntimeError, TypeError ...
        if manifest.platform in ("onnxruntime", "python"):
            raise
        why = explain(error, otherwise=f"build where {manifest.platform} runs")
        raise EngineNotHere(
            f"{manifest.platform} was not run on this machine: {why.problem}", remedy=why.remedy
        ) from error


def _grown(array: Array, size: int) -> Array:
    """Filled up with its last row, as pods fill a batch up to a size that the engine was built for."""
    missing = size - len(array)
    return np.concatenate([array, array[-1:].repeat(missing, axis=0)]) if missing else array
