"""Registered models, their versions, aliases and tags."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from model_store.errors import Permanent
from model_store.registry.rest import Json, RegistryRefused, RegistryUnavailable, Rest
from model_store.release_spec import MODEL_NAME
from model_store.types import ModelRef

_PAGE = 200


class UnknownVersion(Permanent):
    """No such model, version or alias; the remedy lists what exists."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version as the registry knows it. `run_id` is empty when no run made it."""

    ref: ModelRef
    run_id: str
    source: str
    description: str
    created_at: datetime
    tags: dict[str, str]
    aliases: tuple[str, ...]


def resolve(rest: Rest, name: str, version: str) -> ModelRef:
    """The version with this number or alias. Raises `UnknownVersion`; `Retryable` while it is registering."""
    if version.strip().isdecimal():
        found = get(rest, ModelRef(safe_name(name), int(version)))
    else:
        found = _by_alias(rest, safe_name(name), version.strip())
    if (status := found.get("status", "READY")) != "READY":
        raise RegistryUnavailable(f"{name} {version} is {status}", remedy="wait until it is registered")
    return ModelRef(name, int(found["version"]))


def get(rest: Rest, ref: ModelRef) -> Json:
    """MLflow's own record of a version. Raises `UnknownVersion` listing what exists."""
    try:
        query = {"name": safe_name(ref.name), "version": ref.version}
        return dict(rest.get("/model-versions/get", **query)["model_version"])
    except RegistryRefused as refused:
        raise _unknown(rest, refused, ref.name, f"version {ref.version}") from refused


def describe(record: Json) -> ModelVersion:
    """MLflow's record as ours."""
    return ModelVersion(
        ref=ModelRef(str(record["name"]), int(record["version"])),
        run_id=str(record.get("run_id") or ""),
        source=str(record.get("source") or ""),
        description=str(record.get("description") or ""),
        created_at=datetime.fromtimestamp(int(record["creation_timestamp"]) / 1000, tz=UTC),
        tags={tag["key"]: tag.get("value", "") for tag in record.get("tags", [])},
        aliases=tuple(record.get("aliases", ())),
    )


def all_versions(rest: Rest, name: str) -> list[ModelVersion]:
    """Every version, the newest first. Raises `UnknownVersion` when the model is not registered."""
    by_alias = aliases(rest, name)
    query: dict[str, Any] = {
        "filter": f"name='{name}'",
        "max_results": _PAGE,
        "order_by": "version_number DESC",
    }
    found: list[ModelVersion] = []
    while True:
        page = rest.get("/model-versions/search", **query)
        found += [describe(_with_aliases(record, by_alias)) for record in page.get("model_versions", [])]
        if not page.get("next_page_token"):
            return found
        query["page_token"] = page["next_page_token"]


def aliases(rest: Rest, name: str) -> dict[str, int]:
    """Version by alias. Raises `UnknownVersion` when the model is not registered."""
    try:
        model = rest.get("/registered-models/get", name=safe_name(name))["registered_model"]
    except RegistryRefused as refused:
        raise _unknown_model(rest, name) from refused
    return {entry["alias"]: int(entry["version"]) for entry in model.get("aliases", [])}


def safe_name(name: str) -> str:
    """Raises `Permanent` for names that could be paths."""
    if not MODEL_NAME.fullmatch(name) or ".." in name:
        raise Permanent(
            f"`{name}` is no model name", remedy="letters, digits, '_', '-' and '.', no '/' and no '..'"
        )
    return name


def _by_alias(rest: Rest, name: str, alias: str) -> Json:
    try:
        return dict(rest.get("/registered-models/alias", name=name, alias=alias)["model_version"])
    except RegistryRefused as refused:
        raise _unknown(rest, refused, name, f"alias `{alias}`") from refused


def _with_aliases(record: Json, by_alias: dict[str, int]) -> Json:
    """A search leaves the aliases of its results out."""
    mine = [alias for alias, version in by_alias.items() if version == int(record["version"])]
    return {**record, "aliases": mine}


def _unknown(rest: Rest, refused: RegistryRefused, name: str, wanted: str) -> Permanent:
    if refused.code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return refused
    known = aliases(rest, name)
    newest = rest.get(
        "/model-versions/search", filter=f"name='{name}'", max_results=10, order_by="version_number DESC"
    )
    numbers = ", ".join(str(record["version"]) for record in newest.get("model_versions", []))
    listed = ", ".join(f"{alias} (version {version})" for alias, version in sorted(known.items()))
    return UnknownVersion(
        f"{name} has no {wanted}", remedy=f"newest versions: {numbers or 'none'}; aliases: {listed or 'none'}"
    )


def _unknown_model(rest: Rest, name: str) -> UnknownVersion:
    found = rest.get("/registered-models/search", max_results=50).get("registered_models", [])
    known = ", ".join(model["name"] for model in found)
    return UnknownVersion(
        f"MLflow has no registered model `{name}`",
        remedy=f"register a version under that name; registered are: {known or 'none'}",
    )
