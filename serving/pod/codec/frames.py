"""What MLflow's clients send to `/invocations`: a DataFrame's rows and columns, or arrays, in Python.

JSON with one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, or CSV with a header.
Source: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from model_store.engines.errors import Refused
from serving.pod.codec import nonfinite

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_EXAMPLE = '{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}}'
_SPLIT = frozenset(("columns", "data", "index"))


class Frame(NamedTuple):
    """A table. `columns`: by name, or by place (0, 1, ...) where the client named none."""

    columns: Mapping[Any, Sequence[Any]]
    rows: int
    is_text: bool = False

    @property
    def is_named(self) -> bool:
        return not all(type(name) is int for name in self.columns)


class Sent(NamedTuple):
    """A request: `form` is one of FORMS, `content` what stood there."""

    form: str
    content: Any


def read_json(body: bytes) -> Sent:
    """Raises `Refused` for what is none of the forms, and for parameters."""
    try:
        document = nonfinite.parse(body)
    except orjson.JSONDecodeError as error:
        raise Refused(f"the body is not JSON: {error}", remedy=f"send {_EXAMPLE}") from error
    if type(document) is not dict:
        raise Refused("the body is not a JSON object", remedy=f"send {_EXAMPLE}")
    if document.get("params"):
        raise Refused(
            "`params` are not taken: an answer must depend on its row alone, and rows of several callers are"
            " computed together",
            remedy="leave `params` out; log the model with those values as their defaults, or as columns",
        )
    found = [form for form in FORMS if form in document]
    if len(found) != 1:
        raise Refused(
            f"the body has {', '.join(found) or str(list(document))[:200]}",
            remedy=f"send exactly one of {', '.join(FORMS)}",
        )
    return Sent(found[0], document[found[0]])


def read_csv(body: bytes) -> Frame:
    """As `DataFrame.to_csv(index=False)` writes it. Raises `Refused`."""
    try:
        # Excel writes a byte order mark, which pandas takes off.
        lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"))) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"the body is not CSV: {error}", remedy="send UTF-8, with a header") from error
    if not lines:
        raise Refused("the body is empty", remedy="send a header and rows")
    header, *rows = lines
    return _by_column(header, rows)._replace(is_text=True)


def frame(sent: Sent) -> Frame:
    """The rows of any form as a table. Raises `Refused`."""
    content = sent.content
    if sent.form == "dataframe_split":
        return _split(content)
    if sent.form == "dataframe_records" or _are_records(content):
        return _of_records(content)
    if type(content) is dict:
        return _of_columns(content)
    if type(content) is not list:
        raise _misshapen(sent.form, "a list or an object")
    if content and type(content[0]) is list:
        return _by_column(range(len(content[0])), content)
    return Frame({0: content}, len(content))


def _are_records(content: Any) -> bool:
    return type(content) is list and bool(content) and type(content[0]) is dict


def _split(content: Any) -> Frame:
    if type(content) is not dict or "data" not in content or not content.keys() <= _SPLIT:
        raise _misshapen("dataframe_split", "an object with `columns` and `data`")
    data, names = content["data"], content.get("columns")
    if type(data) is not list or not all(type(row) is list for row in data):
        raise _misshapen("dataframe_split.data", "a list of rows, each a list")
    if names is None:
        names = range(len(data[0]) if data else 0)
    elif type(names) is not list or not all(type(name) in (str, int) for name in names):
        raise _misshapen("dataframe_split.columns", "a list of names")
    return _by_column(names, data)


def _by_column(names: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Frame:
    width = len(names)
    if len(set(names)) != width:
        raise Refused("a column is there twice", remedy="name each column once")
    wrong = next((place for place, row in enumerate(rows) if not _has_length(row, width)), -1)
    if wrong >= 0:
        raise Refused(f"row {wrong} has not {width} values", remedy="give each row a value for each column")
    if not rows:
        return Frame({name: [] for name in names}, 0)
    return Frame(dict(zip(names, zip(*rows, strict=True), strict=True)), len(rows))


def _has_length(row: Any, width: int) -> bool:
    return type(row) is list and len(row) == width


def _of_records(content: Any) -> Frame:
    if type(content) is not list or not all(type(row) is dict for row in content):
        raise _misshapen("dataframe_records", "a list of objects")
    names = dict.fromkeys(name for row in content for name in row)
    return Frame({name: [row.get(name) for row in content] for name in names}, len(content))


def _of_columns(content: dict[str, Any]) -> Frame:
    """`inputs` by column; of one row, its values may stand there by themselves."""
    if all(type(values) is not list for values in content.values()):
        return Frame({name: [value] for name, value in content.items()}, 1)
    columns = {name: values if type(values) is list else [values] for name, values in content.items()}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise Refused(
            f"the columns have {sorted(lengths)} values", remedy="give each column a value for each row"
        )
    return Frame(columns, lengths.pop() if lengths else 0)


def _misshapen(what: str, wanted: str) -> Refused:
    return Refused(f"`{what}` is not {wanted}", remedy=f"send {wanted}: {_EXAMPLE}")
