"""The MLflow registry: which versions exist, what they are made of, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from model_store.registry import artifacts, evidence, versions
from model_store.registry.artifacts import Downloaded
from model_store.registry.evidence import Evidence, EvidenceRun
from model_store.registry.rest import RegistryRefused, RegistryUnavailable, Rest
from model_store.registry.versions import ModelVersion, UnknownVersion
from model_store.types import ModelRef

__all__ = [
    "Downloaded",
    "Evidence",
    "EvidenceRun",
    "ModelVersion",
    "Registry",
    "RegistryRefused",
    "RegistryUnavailable",
    "UnknownVersion",
]

EVIDENCE_TAG = "slipway.evidence"
MAX_TAG_CHARACTERS = 5000


class Registry:
    """One MLflow server. Every call raises `RegistryUnavailable` (`Retryable`, within seconds) when it is
    down, and a `Permanent` that lists what exists when something is not there. All writes may be repeated.
    """

    def __init__(self, url: str) -> None:
        self._rest = Rest(url)

    @property
    def url(self) -> str:
        return self._rest.url

    def resolve(self, name: str, version: str) -> ModelRef:
        """The version with this number or alias."""
        return versions.resolve(self._rest, name, version)

    def describe(self, ref: ModelRef) -> ModelVersion:
        """Run, source, tags and aliases of one version."""
        return versions.describe(versions.get(self._rest, ref))

    def versions(self, name: str) -> list[ModelVersion]:
        """Every version of a model, the newest first."""
        return versions.all_versions(self._rest, name)

    def aliases(self, name: str) -> dict[str, int]:
        """Version number by alias."""
        return versions.aliases(self._rest, name)

    def authors(self, ref: ModelRef) -> tuple[str, ...]:
        """Who ran the training, as MLflow recorded it; nobody when no run made the version.

        Two when the run's tag names somebody else than the run itself: whoever may set tags can change the
        tag, and only the tag.
        """
        run_id = self.describe(ref).run_id
        if not run_id:
            return ()
        run = self._rest.get("/runs/get", run_id=run_id)["run"]
        tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
        named = (str(tags.get("mlflow.user") or ""), str(run["info"].get("user_id") or ""))
        # MLflow's own word for a run that names nobody.
        return tuple(dict.fromkeys(name for name in named if name not in ("", "unknown")))

    def parameters(self, ref: ModelRef) -> dict[str, str] | None:
        """What the run that made the version was given (`mlflow.log_param`); None when no run made it."""
        run_id = self.describe(ref).run_id
        if not run_id:
            return None
        run = self._rest.get("/runs/get", run_id=run_id)["run"]
        return {param["key"]: str(param["value"]) for param in run["data"].get("params", [])}

    def download(self, ref: ModelRef, folder: Path, *, max_size_mb: float) -> Downloaded:
        """All files of a version into `folder` (replaced), and their digest."""
        query = {"name": versions.safe_name(ref.name), "version": ref.version}
        self.describe(ref)
        uri = str(self._rest.get("/model-versions/get-download-uri", **query)["artifact_uri"])
        return artifacts.download(self._rest, uri, folder, max_size_mb=max_size_mb)

    def set_alias(self, ref: ModelRef, alias: str) -> None:
        """Point `alias` at this version, wherever it pointed before."""
        versions.get(self._rest, ref)
        self._rest.post("/registered-models/alias", name=ref.name, alias=alias, version=str(ref.version))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias. One that is not there is no error."""
        if alias in self.aliases(name):
            self._rest.delete("/registered-models/alias", name=name, alias=alias)

    def set_tags(self, ref: ModelRef, tags: Mapping[str, str]) -> None:
        """Set tags of the version; long values are cut at 5,000 characters, MLflow's limit before 3.0."""
        versions.get(self._rest, ref)
        for key, value in tags.items():
            said = {"key": key, "value": value[:MAX_TAG_CHARACTERS]}
            self._rest.post("/model-versions/set-tag", name=ref.name, version=str(ref.version), **said)

    def note(self, ref: ModelRef, text: str) -> None:
        """Describe a version that has no description; what people wrote is left alone."""
        if not self.describe(ref).description:
            self._rest.patch(
                "/model-versions/update", name=ref.name, version=str(ref.version), description=text
            )

    def delete_tags(self, ref: ModelRef, keys: Iterable[str]) -> None:
        """Remove tags of the version. Those that are not there are no error."""
        present = self.describe(ref).tags
        for key in keys:
            if key in present:
                query = {"name": ref.name, "version": str(ref.version), "key": key}
                self._rest.delete("/model-versions/delete-tag", **query)

    def log_evidence(self, ref: ModelRef, found: Evidence) -> EvidenceRun:
        """An MLflow run with everything about a release, linked from the version by a tag."""
        versions.get(self._rest, ref)
        run = evidence.log_evidence(self._rest, ref, found)
        self.set_tags(ref, {EVIDENCE_TAG: run.url})
        return run

    def version_url(self, ref: ModelRef) -> str:
        """The version's page for people."""
        return f"{self._rest.page_url}/#/models/{quote(ref.name)}/versions/{ref.version}"

    def run_url(self, run_id: str) -> str:
        """A run's page for people."""
        experiment = self._rest.get("/runs/get", run_id=run_id)["run"]["info"]["experiment_id"]
        return f"{self._rest.page_url}/#/experiments/{experiment}/runs/{run_id}"

    def is_up(self) -> bool:
        """Whether the server answers now."""
        try:
            self._rest.get("/registered-models/search", max_results=1)
        except RegistryUnavailable:
            return False
        return True
