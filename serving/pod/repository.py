"""The models a pod has: bundles it knows, and the ones loaded. Both change while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from model_store.attestation import Trusted
from model_store.engines.errors import Refused, Unavailable
from model_store.engines.manifest import read_manifest
from model_store.errors import Permanent, SlipwayError
from serving.pod.model import ServedModel
from serving.pod.opened import OpenedModel
from serving.pod.telemetry import ModelMetrics

Admit = Callable[[OpenedModel, ModelMetrics], ServedModel]


@dataclass(slots=True)
class RepositoryEntry:
    """One bundle the pod knows. `reason` says why it is not ready; `metrics` outlive its reloads."""

    name: str
    version: str
    bundle: Path
    model: ServedModel | None = None
    reason: str = "not loaded yet"
    metrics: ModelMetrics = field(default_factory=ModelMetrics)

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded and its engine would answer now."""
        return self.model is not None and self.model.is_up

    @property
    def why_not(self) -> str:
        """Why it is not ready, empty when it is."""
        if self.model is not None and not self.model.is_up:
            return "its process ended and is being started again"
        return self.reason


class Repository:
    """`admit` makes a `ServedModel` of an opened one. `by_target` maps infer paths to loaded models."""

    def __init__(
        self,
        bundles: list[Path],
        *,
        admit: Admit,
        clock: Callable[[], float],
        request_log: Path | None = None,
        trusted: Trusted | None = None,
    ) -> None:
        self._trusted = trusted
        self._admit, self._clock, self._request_log = admit, clock, request_log
        self._entries = [_entry(bundle) for bundle in bundles]
        self._lock = asyncio.Lock()
        # Its own, for the event loop's end waits for its default one: a pod told to stop must not load on.
        self._loader = ThreadPoolExecutor(1, "load")
        self.by_target: dict[bytes, ServedModel] = {}
        # Why the GPU computes no more, in words, and so no model of it, whatever each says of itself.
        self.lost_gpu = ""
        # Inferences asked of what is not here. Under no name: clients may invent any number of them.
        self.not_found = 0
        # Grows with every model that comes or goes: what was remembered of the models before is void.
        self.generation = 0

    @property
    def entries(self) -> list[RepositoryEntry]:
        return list(self._entries)

    @property
    def models(self) -> list[ServedModel]:
        return [entry.model for entry in self._entries if entry.model is not None]

    @property
    def is_ready(self) -> bool:
        """Whether every bundle that the pod was started with answers, whatever took it away."""
        return bool(self._entries) and not self.lost_gpu and all(entry.is_ready for entry in self._entries)

    @property
    def why_not(self) -> str:
        """Why not, empty where it is."""
        missing = [
            f"{each.name} v{each.version}: {each.why_not}" for each in self._entries if not each.is_ready
        ]
        return f"the GPU is lost: {self.lost_gpu}" if self.lost_gpu else "; ".join(missing)

    def find(self, name: str, version: str | None) -> RepositoryEntry:
        """The bundle of a name and version (None: the newest). Raises `Refused` (404) listing what exists."""
        named = [entry for entry in self._entries if entry.name == name]
        if not named:
            known = ", ".join(sorted({entry.name for entry in self._entries}))
            raise Refused(f"no model {name[:100]!r}", remedy=f"this pod has: {known}", status=404)
        if version is None:
            return max(named, key=lambda entry: (entry.model is not None, _rank(entry.version)))
        for entry in named:
            if entry.version == version:
                return entry
        versions = ", ".join(entry.version for entry in named)
        raise Refused(
            f"{name} has no version {version[:100]!r}", remedy=f"this pod has: {versions}", status=404
        )

    def described(self, name: str, version: str | None) -> list[RepositoryEntry]:
        """The bundles of a name ("": all there are) and version (None: all). Raises `Refused` (404)."""
        if version is not None:
            return [self.find(name, version)]
        if name:
            self.find(name, None)
        return [entry for entry in self._entries if name in ("", entry.name)]

    def model(self, name: str, version: str | None) -> ServedModel:
        """The model, ready. Raises `Refused` (404) or `Unavailable` (503) with the reason it is not."""
        model = self.loaded(name, version)
        if not model.is_up:
            raise _not_ready(self.find(name, version))
        return model

    def loaded(self, name: str, version: str | None) -> ServedModel:
        """The model to describe, be it ready or starting again. Raises as `model`."""
        entry = self.find(name, version)
        if entry.model is None:
            raise _not_ready(entry)
        return entry.model

    def asked(self, name: str, version: str | None) -> ServedModel:
        """`model` for an inference: one that finds none is counted here, for no model will count it."""
        try:
            entry = self.find(name, version)
        except Refused:
            self.not_found += 1
            raise
        if entry.model is None:
            entry.metrics.finished(Unavailable.status)
        return self.model(name, version)

    async def load_all(self) -> None:
        """Load every bundle. Raises the first one's `SlipwayError` that cannot be loaded."""
        for entry in self._entries:
            await self._load(entry)

    async def load(self, name: str) -> None:
        """(Re)load all versions of a model. Raises `Refused` for an unknown or unloadable one."""
        self.find(name, None)
        for entry in [entry for entry in self._entries if entry.name == name]:
            try:
                await self._load(entry)
            except Permanent as error:
                raise Refused(error.problem, remedy=error.remedy) from error

    async def unload(self, name: str) -> None:
        """Stop taking requests for a model, finish those it has, free it. Raises `Refused` (404)."""
        self.find(name, None)
        async with self._lock:
            for entry in [entry for entry in self._entries if entry.name == name]:
                model, entry.model, entry.reason = entry.model, None, "unloaded"
                self._index()
                if model is not None:
                    await _retire(model)

    async def _load(self, entry: RepositoryEntry) -> None:
        async with self._lock:
            try:
                loop = asyncio.get_running_loop()
                opened = await loop.run_in_executor(
                    self._loader, OpenedModel, entry.bundle, self._clock, self._request_log, self._trusted
                )
            except SlipwayError as error:
                entry.reason = error.problem
                raise
            model = self._admit(opened, entry.metrics)
            await model.settle()
            old, entry.model, entry.reason = entry.model, model, ""
            self._index()
            if old is not None:
                await _retire(old)

    def _index(self) -> None:
        targets: dict[bytes, ServedModel] = {}
        for model in self.models:
            base = f"/v2/models/{quote(model.name)}"
            targets[f"{base}/versions/{quote(model.version)}/infer".encode()] = model
            newest = self.find(model.name, None).model
            if newest is not None:
                targets[f"{base}/infer".encode()] = newest
        self.by_target = targets
        self.generation += 1


def _entry(bundle: Path) -> RepositoryEntry:
    manifest = read_manifest(bundle)
    return RepositoryEntry(manifest.name, manifest.version, bundle)


def _not_ready(entry: RepositoryEntry) -> Unavailable:
    return Unavailable(
        f"{entry.name} v{entry.version} is not ready: {entry.why_not}", remedy="wait, or load it"
    )


def _rank(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (-1, version)


async def _retire(model: ServedModel) -> None:
    while model.in_flight:
        await asyncio.sleep(0.005)
    await asyncio.to_thread(model.close)
