"""What a spec means of models that are served as they are: nothing to quantize, one thing to run them.

With `flavor: pyfunc` that is all there is. Without a flavour, `allow: [pyfunc]` makes it one candidate more,
beside what can be exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model_store.release_spec.before_traffic import Source
from model_store.release_spec.section import Found

_FLAVOR = "pyfunc"
_EXPORTED, _BUILT = ("fp32", "fp16", "int8"), ("onnxruntime", "tensorrt_rtx")


def filled_in(written: Any) -> Any:
    """The spec with `precisions`, `targets` and `serving.runtime` as its source has them, where it does not
    say them itself.
    """
    if not isinstance(written, Mapping):
        return written
    source = written.get("source")
    if _said(source, "flavor") == _FLAVOR:
        return _served_as_logged(written)
    precisions = written.get("precisions")
    if precisions is None and _said(source, "flavor") is None and _FLAVOR in (_said(source, "allow") or ()):
        precisions = (*_EXPORTED, "original")
    if not isinstance(precisions, list | tuple) or "original" not in precisions:
        return written
    if set(precisions) == {"original"}:
        return _served_as_logged(written)
    targets = written.get("targets", _BUILT)
    if isinstance(targets, list | tuple) and "python" not in targets:
        targets = (*targets, "python")
    return {**written, "precisions": precisions, "targets": targets}


def _served_as_logged(written: Mapping[str, Any]) -> dict[str, Any]:
    serving = written.get("serving", {})
    known = {"precisions": ("original",), "targets": ("python",), **written}
    return {**known, "serving": {"runtime": "python", **serving}} if isinstance(serving, Mapping) else known


def contradictions_as_logged(
    source: Source, precisions: Sequence[str], targets: Sequence[str], runtime: str
) -> list[Found]:
    """Other precisions and engines than the flavour has."""
    if source.flavor is None and "original" in precisions:
        return _contradictions_beside_exports(source, precisions, targets, runtime)
    is_as_logged = source.flavor == _FLAVOR
    said = (
        (("precisions",), precisions, "original"),
        (("targets",), targets, "python"),
        (("serving", "runtime"), (runtime,), "python"),
    )
    if is_as_logged:
        wrong = "flavor pyfunc is served as it was logged: leave this out"
        return [(field, wrong) for field, found, own in said if tuple(found) != (own,)]
    needs = f"flavor {source.flavor} is exported" if source.flavor else "source.allow does not name pyfunc"
    return [(field, f"`{own}`, but {needs}") for field, found, own in said if own in found]


def _contradictions_beside_exports(
    source: Source, precisions: Sequence[str], targets: Sequence[str], runtime: str
) -> list[Found]:
    """Of candidates that are exported and one that is not."""
    found: list[Found] = []
    if not source.allows(_FLAVOR):
        found.append((("precisions",), "`original` runs the model's code in pods: source.allow: [pyfunc]"))
    if "python" not in targets:
        found.append((("targets",), "`original` is run by `python`, which is not among them"))
    if runtime == "python" and len(precisions) > 1:
        found.append((("serving", "runtime"), "what is exported is not run by Python: name another"))
    return found


def _said(source: Any, field: str) -> Any:
    return source.get(field) if isinstance(source, Mapping) else getattr(source, field, None)
