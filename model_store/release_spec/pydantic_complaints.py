"""pydantic's errors as complaints: the field, what was given, what is allowed, and a likely remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from model_store.release_spec.document import Complaint, Document, Field
from model_store.release_spec.gates import Margin
from model_store.release_spec.metric_names import NamedMetric, misnamed
from model_store.release_spec.section import Contradictions

_WANTED = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "tuple": "a list, e.g. [a, b]", "dict": "`name: value` lines", "model": "`field: value` lines",
}  # fmt: skip
_SIGNS = {"greater_than": "above", "greater_than_equal": "at least", "less_than": "below",
          "less_than_equal": "at most"}  # fmt: skip


def complaints(errors: list[ErrorDetails], document: Document, model: type[BaseModel]) -> list[Complaint]:
    """One complaint per wrong field, however many errors pydantic has about it."""
    by_field: dict[Field, list[Complaint]] = {}
    for error in errors:
        for at, complaint in _explain(error, document, model):
            by_field.setdefault(at, []).append(complaint)
    return [_merge(found) for found in by_field.values()]


def _merge(found: list[Complaint]) -> Complaint:
    """A field that may be one of two kinds has an error for each: `text or a whole number`."""
    first, *others = found
    wanted = [first.problem, *(other.problem.removeprefix("must be ") for other in others)]
    return Complaint(first.line, first.field, " or ".join(wanted), first.given, first.allowed, first.remedy)


def _explain(
    error: ErrorDetails, document: Document, model: type[BaseModel]
) -> Iterator[tuple[Field, Complaint]]:
    at = _field(error["loc"], document, missing=error["type"] == "missing")
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Contradictions):
        for inner, problem in cause.found:
            field = (*at, *inner)
            yield field, Complaint(document.line(field), _dotted(field), problem)
        return
    problem, allowed, remedy = _say(error, at, document, model)
    given = None if error["type"] in ("missing", "extra_forbidden") else document.written.get(at)
    yield at, Complaint(document.line(at), _dotted(at), problem, given, allowed, remedy)


def _field(loc: tuple[int | str, ...], document: Document, *, missing: bool) -> Field:
    """pydantic's location without the names of union members and `[key]`, which no file contains."""
    at: Field = ()
    for part in loc:
        if (*at, part) in document.lines:
            at = (*at, part)
    return (*at, loc[-1]) if missing else at


def _say(error: ErrorDetails, at: Field, document: Document, model: type[BaseModel]) -> tuple[str, str, str]:
    """The problem, the allowed values, and the remedy."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(at, model)
    if kind == "model_type" and (unknown := _unknown_metric(at, model)):
        return unknown, "", ""
    if kind == "missing":
        return "is missing", "", "see docs/specs.md"
    if kind == "literal_error":
        allowed = [value.strip("'") for value in context["expected"].replace(" or ", ", ").split(", ")]
        return "unknown value", ", ".join(allowed), _did_you_mean(str(error["input"]), allowed)
    if kind in _SIGNS:
        limit = next(iter(value for key, value in context.items() if key != "error"))
        return f"must be {_SIGNS[kind]} {limit}", "", _share_hint(error["input"], limit)
    if kind == "value_error":
        return str(context["error"]), "", ""
    wanted = _WANTED.get(kind.split("_")[0])
    return (f"must be {wanted}", "", _type_hint(error["input"], kind)) if wanted else (error["msg"], "", "")


def _unknown_field(at: Field, model: type[BaseModel]) -> tuple[str, str, str]:
    known = sorted(_section(at[:-1], model).model_fields)
    return "unknown field", ", ".join(known), _did_you_mean(str(at[-1]), known)


def _unknown_metric(at: Field, model: type[BaseModel]) -> str:
    """Of a value that is no margin, where its name is neither a field nor a metric."""
    section, name = _section(at[:-1], model), str(at[-1])
    if section.model_config.get("extra") != "allow" or name in section.model_fields:
        return ""
    found = misnamed([NamedMetric(at, name, None)], frozenset(section.model_fields))
    return found[0][1] if found else ""


def _section(at: Field, model: type[BaseModel]) -> type[BaseModel]:
    """The section class that holds the field `at`."""
    for part in at:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
        elif isinstance(part, str) and model.model_config.get("extra") == "allow":
            model = Margin
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _did_you_mean(given: str, allowed: list[str]) -> str:
    close = get_close_matches(given.replace("-", "_").lower(), allowed, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""


def _share_hint(given: Any, limit: Any) -> str:
    is_percent = isinstance(given, (int, float)) and limit in (0.5, 1) and 1 < given <= 100
    return f"a share, not percent: {given / 100:g}" if is_percent else ""


def _type_hint(given: Any, kind: str) -> str:
    if kind.startswith("string") and isinstance(given, bool):
        return "YAML reads yes, no, on and off as true and false: put it in quotes"
    if kind.startswith("string") and given is not None and not isinstance(given, (Mapping, tuple)):
        return "put it in quotes"
    if kind.startswith(("int", "float", "bool")) and isinstance(given, str):
        return "without quotes, in plain digits" if kind[0] != "b" else "without quotes"
    return ""


def _dotted(at: Field) -> str:
    return ".".join(map(str, at))
