"""Formats whose loading runs code: refused until the spec allows them, whatever a model says of itself."""

from __future__ import annotations

from model_store.export.base import NotExportable
from model_store.export.mlmodel import LoggedModel
from model_store.release_spec import ReleaseSpec


def refuse_unless_allowed(spec: ReleaseSpec, format: str, how: str) -> None:
    """Before anything of the model is opened. Raises `Permanent` (NotExportable) with the line to write."""
    if spec.source.allows(format):
        return
    known = ", ".join(spec.source.allow) or "none"
    line = ", ".join((*spec.source.allow, format))
    raise NotExportable(
        f"{spec.model} {how} the code of whoever logged it, and the spec does not allow the format {format}"
        f" (source.allow: {known}); nothing was loaded",
        remedy=f"if only people you trust can register versions, write source.allow: [{line}]; otherwise"
        " log ONNX (mlflow.onnx.log_model)",
    )


def code_format(logged: LoggedModel, flavor: str) -> str | None:
    """What `source.allow` has to name for a model to be released by this flavour of its; None for ONNX."""
    if flavor == "sklearn":
        return str(logged.flavors["sklearn"].get("serialization_format", "pickle"))
    return None if flavor == "onnx" else flavor


def told_of_trust(spec: ReleaseSpec, format: str | None) -> tuple[str, ...]:
    """Of a release that `trusted` alone let run code: the line that lets no other format."""
    if format is None or not spec.source.allows_every_format:
        return ()
    return (f"source.trusted lets every format run code: write source.allow: [{format}] instead",)
