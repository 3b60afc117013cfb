"""Formats whose loading runs code: refused until the spec allows them, whatever a model says of itself."""

from __future__ import annotations

from model_store.export.base import NotExportable
from model_store.release_spec import ReleaseSpec


def refuse_unless_allowed(spec: ReleaseSpec, format: str, how: str) -> None:
    """Before anything of the model is opened. Raises `Permanent` (NotExportable) with the line to write."""
    if spec.source.allows(format):
        return
    known = ", ".join(spec.source.allow) or "none"
    raise NotExportable(
        f"{spec.model} {how} the code of whoever logged it, and the spec does not allow the format {format}"
        f" (source.allow: {known}); nothing was loaded",
        remedy=f"if only people you trust can register versions, write source.allow: [{format}]; otherwise"
        " log ONNX (mlflow.onnx.log_model) and set source.flavor: onnx",
    )
