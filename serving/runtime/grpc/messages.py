"""The protocol's protobuf messages, in a descriptor pool of their own.

Of their own, because tritonclient and others register the same names in the default pool, and a process may
hold both. Source: Triton's grpc_service.proto (package `inference`); fields are numbered in order from 1, and
tests/unit/serving/runtime/test_grpc_messages.py compares every one with tritonclient's.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
_TENSOR = "name:string datatype:string *shape:int64"
# message -> fields. `*` repeats, `%` maps from string, `|` is a choice of one.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string *extensions:string",
    "ModelMetadataRequest": "name:string version:string",
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": "name:string *versions:string platform:string "
    "*inputs:ModelMetadataResponse.TensorMetadata *outputs:ModelMetadataResponse.TensorMetadata",
    "InferParameter": "|bool_param:bool |int64_param:int64 |string_param:string |double_param:double "
    "|uint64_param:uint64",
    "InferTensorContents": "*bool_contents:bool *int_contents:int32 *int64_contents:int64 "
    "*uint_contents:uint32 *uint64_contents:uint64 *fp32_contents:float *fp64_contents:double "
    "*bytes_contents:bytes",
    "ModelInferRequest.InferInputTensor": f"{_TENSOR} %parameters:InferParameter "
    "contents:InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "name:string %parameters:InferParameter",
    "ModelInferRequest": "model_name:string model_version:string id:string %parameters:InferParameter "
    "*inputs:ModelInferRequest.InferInputTensor *outputs:ModelInferRequest.InferRequestedOutputTensor "
    "*raw_input_contents:bytes",
    "ModelInferResponse.InferOutputTensor": f"{_TENSOR} %parameters:InferParameter "
    "contents:InferTensorContents",
    "ModelInferResponse": "model_name:string model_version:string id:string %parameters:InferParameter "
    "*outputs:ModelInferResponse.InferOutputTensor *raw_output_contents:bytes",
    "ModelStreamInferResponse": "error_message:string infer_response:ModelInferResponse",
    "ModelRepositoryParameter": "|bool_param:bool |int64_param:int64 |string_param:string |bytes_param:bytes",
    "RepositoryIndexRequest": "repository_name:string ready:bool",
    "RepositoryIndexResponse.ModelIndex": "name:string version:string state:string reason:string",
    "RepositoryIndexResponse": "*models:RepositoryIndexResponse.ModelIndex",
    "RepositoryModelLoadRequest": "repository_name:string model_name:string "
    "%parameters:ModelRepositoryParameter",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name:string model_name:string "
    "%parameters:ModelRepositoryParameter",
    "RepositoryModelUnloadResponse": "",
}
_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="slipway/inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path in sorted(_MESSAGES, key=lambda path: path.count(".")):
        parent, _, name = path.rpartition(".")
        message = made[parent].nested_type.add() if parent else file.message_type.add()
        message.name = name
        made[path] = message
    for path, fields in _MESSAGES.items():
        for number, words in enumerate(fields.split(), start=1):
            _add_field(made[path], path, number, words)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, path: str, number: int, words: str) -> None:
    mark, (name, kind) = words[0], words.lstrip("*%|").split(":")
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if mark in "*%":
        field.label = _Field.LABEL_REPEATED
    if mark == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if mark == "%":
        kind = _add_entry(message, path, kind)
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


def _add_entry(message: descriptor_pb2.DescriptorProto, path: str, kind: str) -> str:
    """What protobuf makes of a map field: a repeated nested message of key and value."""
    entry = message.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    _add_field(entry, path, 1, "key:string")
    _add_field(entry, path, 2, f"value:{kind}")
    return f"{path}.ParametersEntry"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def message(name: str) -> Any:
    """The class of a message of the protocol, e.g. `message("ModelInferRequest")`."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
