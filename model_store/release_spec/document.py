"""A YAML file as plain values, remembering on which line each of them stands: what is wrong with one is said
so that the line can be fixed without reading our code.

Read through PyYAML's safe nodes (libyaml), because only nodes know lines and show keys written twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model_store.errors import Permanent


@dataclass(frozen=True, slots=True)
class Complaint:
    """One wrong line. `field` is dotted (`rollout.steps.0.weight`), empty for the whole file."""

    line: int
    field: str
    problem: str
    given: str | None = None
    allowed: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        given = f", got `{self.given}`" if self.given is not None else ""
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{where}{self.problem}{given}{allowed}{remedy}"


class InvalidSpec(Permanent):
    """Everything wrong with one spec file, in the order of its lines."""

    def __init__(self, path: Path, complaints: Sequence[Complaint]) -> None:
        self.path = path
        self.complaints = tuple(sorted(complaints, key=lambda complaint: (complaint.line, complaint.field)))
        lines = "\n".join(f"{path}:{complaint.line}: {complaint}" for complaint in self.complaints)
        super().__init__(lines, remedy=f"fix it, then check: ./slipway validate {path}")


Field = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
# A spec has some hundred values; aliases inside aliases can spell out billions in a few lines.
MAX_VALUES = 20_000
MAX_DEPTH = 20
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: ten times slower, otherwise the same
    from yaml import SafeLoader  # type: ignore[assignment]


@dataclass
class Document:
    """`data` as plain dicts, tuples and scalars; `lines` (from 1) and `written` text by field."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Field, int] = field(default_factory=dict)
    written: dict[Field, str] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)

    def line(self, at: Field) -> int:
        """Where `at` stands, or where the nearest section around it begins."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)


def read_document(path: Path) -> Document:
    """Read one YAML mapping. Raises `InvalidSpec` when there is none; what is merely wrong in it is in
    `complaints` of the result."""
    text = _read_text(path)
    loader = SafeLoader(text)
    try:
        _refuse_depth(path, text)
        node = loader.get_single_node()
        if node is None:
            raise InvalidSpec(path, [Complaint(1, "", "the file is empty", remedy="see docs/specs.md")])
        if not isinstance(node, yaml.MappingNode):
            kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
            wrong = f"a spec is `field: value` lines, and this is a {kind}"
            raise InvalidSpec(path, [Complaint(_line(node), "", wrong, remedy="see docs/specs.md")])
        document = Document(path)
        document.data = _Walk(loader, document).mapping(node, ())
    except yaml.YAMLError as error:
        raise InvalidSpec(path, [_syntax(error, text)]) from error
    finally:
        loader.dispose()
    return document


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        wrong = f"cannot be read: {error.strerror or error}"
        raise InvalidSpec(
            path, [Complaint(1, "", wrong, remedy="check the path and its permissions")]
        ) from error
    if len(content) > MAX_BYTES:
        wrong = f"larger than {MAX_BYTES // 1024} KiB, and a spec is a page or two"
        raise InvalidSpec(path, [Complaint(1, "", wrong, remedy="is this the right file?")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        wrong = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise InvalidSpec(path, [Complaint(line, "", wrong, remedy="save the file as UTF-8")]) from error


def _refuse_depth(path: Path, text: str) -> None:
    """Nodes are composed by recursion, in C: a hundred thousand brackets would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise InvalidSpec(path, [Complaint(line, "", f"more than {MAX_DEPTH} levels")])


def _syntax(error: yaml.YAMLError, text: str) -> Complaint:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else "the end of the file"
    if "\t" in written[: len(written) - len(written.lstrip())] or "'\\t'" in problem:
        return Complaint(line, "", "a tab indents this line", remedy="YAML wants spaces: two for each level")
    return Complaint(
        line, "", f"not YAML: {problem}", given=written.strip(), remedy="check quotes and indents"
    )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Walk:
    """From nodes to values, filling in the document's lines and complaints."""

    def __init__(self, loader: Any, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._values = 0

    def mapping(self, node: yaml.MappingNode, at: Field) -> dict[str, Any]:
        self._complain_of_repeated_keys(node, at)
        self._loader.flatten_mapping(node)  # `<<: *other`
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, at)
            if key is not None:
                self._document.lines[(*at, key)] = _line(key_node)
                result[key] = self._value(value_node, (*at, key))
        return result

    def _value(self, node: yaml.Node, at: Field) -> Any:
        self._values += 1
        if self._values > MAX_VALUES or len(at) > MAX_DEPTH:
            wrong = f"more than {MAX_VALUES} values or {MAX_DEPTH} levels"
            raise InvalidSpec(self._document.path, [Complaint(_line(node), _dotted(at), wrong)])
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            self._complain(node, at, f"has the tag {node.tag}", "leave it out: a spec holds plain values")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._items(node, at))
        return self._scalar(node, at)

    def _items(self, node: yaml.SequenceNode, at: Field) -> Iterator[Any]:
        for place, item in enumerate(node.value):
            self._document.lines[(*at, place)] = _line(item)
            yield self._value(item, (*at, place))

    def _scalar(self, node: yaml.Node, at: Field) -> Any:
        self._document.written[at] = str(node.value)
        try:
            return self._loader.construct_object(node)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "cannot be read"
            self._complain(node, at, problem, "leave the tag out: a spec holds plain values")
        except ValueError as error:  # e.g. the date 2026-13-45
            self._complain(node, at, f"cannot be read: {error}", "put it in quotes if text is meant")
        return None

    def _key(self, node: yaml.Node, at: Field) -> str | None:
        key = self._loader.construct_object(node) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str):
            return key
        self._complain(node, at, "a field's name must be text", f'put it in quotes: "{node.value}"')
        return None

    def _complain_of_repeated_keys(self, node: yaml.MappingNode, at: Field) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in first:
                again = f"is already set on line {first[name]}"
                said = Complaint(_line(key), _dotted((*at, name)), again, remedy="keep one of the two")
                self._document.complaints.append(said)
            first.setdefault(name, _line(key))

    def _complain(self, node: yaml.Node, at: Field, problem: str, remedy: str) -> None:
        given = str(node.value) if isinstance(node, yaml.ScalarNode) else None
        self._document.complaints.append(
            Complaint(_line(node), _dotted(at), problem, given=given, remedy=remedy)
        )


def _dotted(at: Field) -> str:
    return ".".join(map(str, at))
