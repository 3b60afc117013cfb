"""Our protobuf messages are their owners', field by field: what Triton and KServe publish knows every one."""

from __future__ import annotations

from typing import Any

import pytest
import tritonclient.grpc.model_config_pb2 as triton_config
import tritonclient.grpc.service_pb2 as triton
from google.protobuf.descriptor import Descriptor

from serving.pod.grpc.messages import FILES, PACKAGE, POOL, message, services

THEIRS = {**triton.DESCRIPTOR.message_types_by_name, **triton_config.DESCRIPTOR.message_types_by_name}
# In the Open Inference Protocol, and not in Triton's.
OPEN_INFERENCE_ONLY = {("ModelMetadataResponse", "properties", 6)}
INFERENCE = FILES[0]


def of_triton(name: str) -> Any:
    first, *rest = name.split(".")
    found = THEIRS[first]
    for part in rest:
        found = found.nested_types_by_name[part]
    return found


@pytest.mark.parametrize("name", INFERENCE.messages)
def test_every_field_is_tritons(name: str) -> None:
    ours, theirs = message(name).DESCRIPTOR, of_triton(name)
    for field in ours.fields:
        if (name, field.name, field.number) in OPEN_INFERENCE_ONLY:
            continue
        other = theirs.fields_by_number[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        assert named(field.message_type) == named(other.message_type)
        assert (field.containing_oneof is None) == (other.containing_oneof is None)


def named(kind: Descriptor | None) -> str | None:
    return kind.full_name if kind else None


def test_the_datatypes_of_a_configuration_are_numbered_as_tritons() -> None:
    ours = POOL.FindEnumTypeByName("inference.DataType")
    assert {v.name: v.number for v in ours.values} == dict(triton_config.DataType.items())


def test_the_service_has_tritons_methods_with_their_messages() -> None:
    ours = POOL.FindServiceByName(f"{PACKAGE}.GRPCInferenceService")
    theirs = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert len(ours.methods) == 12
    for method in ours.methods:
        other = theirs[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (
            other.client_streaming,
            other.server_streaming,
        )


def test_every_service_that_reflection_tells_of_is_described() -> None:
    for name in services():
        assert POOL.FindServiceByName(name).methods
