"""Protobuf files written in a line for each message, and what protobuf makes of them.

There is no protoc in a pod, and the modules it would have made register their messages in the default pool,
where tritonclient and others register the same names.

A message is its fields in order, numbered from 1: `name:string`. `*` before it repeats, `%` maps from string,
`|` is a choice of one, and `name=7:string` begins to number anew. A type in capitals is a message or an enum
of the same package. A method is `Name(Request)Response`, with
`*` before each message that comes as a stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from google.protobuf import descriptor_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_FIELD = re.compile(r"(?P<mark>[*%|]?)(?P<name>\w+)(?:=(?P<number>\d+))?:(?P<kind>[\w.]+)")
_METHOD = re.compile(r"(\w+)\((\*?)(\w+)\)(\*?)(\w+)")


class ProtoFile(NamedTuple):
    """One file. `choices` names the oneof of a message where it is not `parameter_choice`."""

    name: str
    package: str
    messages: Mapping[str, str]
    services: Mapping[str, str]
    enums: Mapping[str, Sequence[str]] = {}
    choices: Mapping[str, str] = {}


def descriptor(file: ProtoFile) -> descriptor_pb2.FileDescriptorProto:
    """The file as protobuf describes it."""
    found = descriptor_pb2.FileDescriptorProto(name=file.name, package=file.package, syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto | descriptor_pb2.FileDescriptorProto] = {"": found}
    for path in sorted([*file.messages, *file.enums], key=lambda path: path.count(".")):
        parent, _, name = path.rpartition(".")
        if path in file.enums:
            _add_enum(made[parent], name, file.enums[path])
        else:
            made[path] = _added(made[parent], name)
    for path, fields in file.messages.items():
        _add_fields(made[path], path, file, fields)
    for name, methods in file.services.items():
        _add_service(found, name, file.package, methods)
    return found


def _added(
    parent: descriptor_pb2.DescriptorProto | descriptor_pb2.FileDescriptorProto, name: str
) -> descriptor_pb2.DescriptorProto:
    if isinstance(parent, descriptor_pb2.DescriptorProto):
        return parent.nested_type.add(name=name)
    return parent.message_type.add(name=name)


def _add_enum(
    parent: descriptor_pb2.DescriptorProto | descriptor_pb2.FileDescriptorProto,
    name: str,
    values: Sequence[str],
) -> None:
    enum = parent.enum_type.add(name=name)
    for number, value in enumerate(values):
        enum.value.add(name=value, number=number)


def _add_fields(
    message: descriptor_pb2.DescriptorProto | descriptor_pb2.FileDescriptorProto,
    path: str,
    file: ProtoFile,
    fields: str,
) -> None:
    assert isinstance(message, descriptor_pb2.DescriptorProto)
    number = 0
    for words in _FIELD.finditer(fields):
        number = int(words["number"] or number + 1)
        kind = words["kind"]
        if words["mark"] == "%":
            kind = _add_entry(message, path, words["name"], file, kind)
        _add_field(message, file, words["name"], number, words["mark"], kind)


def _add_field(
    message: descriptor_pb2.DescriptorProto, file: ProtoFile, name: str, number: int, mark: str, kind: str
) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if mark in ("*", "%"):
        field.label = _Field.LABEL_REPEATED
    if mark == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name=file.choices.get(message.name, "parameter_choice"))
        field.oneof_index = 0
    if kind in file.enums:
        field.type, field.type_name = _Field.TYPE_ENUM, f".{file.package}.{kind}"
    elif kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{file.package}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


def _add_entry(
    message: descriptor_pb2.DescriptorProto, path: str, name: str, file: ProtoFile, kind: str
) -> str:
    """What protobuf makes of a map field: a repeated nested message of key and value."""
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    _add_field(entry, file, "key", 1, "", "string")
    _add_field(entry, file, "value", 2, "", kind)
    return f"{path}.{entry.name}"


def _add_service(file: descriptor_pb2.FileDescriptorProto, name: str, package: str, methods: str) -> None:
    service = file.service.add(name=name)
    for method, streams_in, request, streams_out, response in _METHOD.findall(methods):
        service.method.add(
            name=method,
            input_type=f".{package}.{request}",
            output_type=f".{package}.{response}",
            client_streaming=bool(streams_in),
            server_streaming=bool(streams_out),
        )
