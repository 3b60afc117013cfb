"""What a spec means of a model that is served as it is: nothing to quantize, one thing to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model_store.release_spec.before_traffic import Source
from model_store.release_spec.contradictions import Found

_FLAVOR = "pyfunc"


def filled_in(written: Any) -> Any:
    """The spec with `precisions`, `targets` and `serving.runtime` as `flavor: pyfunc` has them, where it does
    not say them itself.
    """
    if not isinstance(written, Mapping) or _flavor(written.get("source")) != _FLAVOR:
        return written
    serving = written.get("serving", {})
    known = {"precisions": ("original",), "targets": ("python",), **written}
    return {**known, "serving": {"runtime": "python", **serving}} if isinstance(serving, Mapping) else known


def contradictions_as_logged(
    source: Source, precisions: Sequence[str], targets: Sequence[str], runtime: str
) -> list[Found]:
    """Other precisions and engines than the flavour has."""
    is_as_logged = source.flavor == _FLAVOR
    said = (
        (("precisions",), precisions, "original"),
        (("targets",), targets, "python"),
        (("serving", "runtime"), (runtime,), "python"),
    )
    if is_as_logged:
        wrong = "flavor pyfunc is served as it was logged: leave this out"
        return [(field, wrong) for field, found, own in said if tuple(found) != (own,)]
    return [(field, f"`{own}` is of flavor pyfunc alone") for field, found, own in said if own in found]


def _flavor(source: Any) -> Any:
    return source.get("flavor") if isinstance(source, Mapping) else getattr(source, "flavor", None)
