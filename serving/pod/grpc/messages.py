"""The messages and services a pod speaks in gRPC, in a descriptor pool of their own.

Of their own, because tritonclient and others register the same names in the default pool, and a process may
hold both. tests/unit/serving/pod/test_grpc_messages.py compares every field with what the owners of these
protocols publish. Sources: Triton's grpc_service.proto and model_config.proto, the Open Inference Protocol's
open_inference_grpc.proto, and grpc's health.proto and reflection.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

from serving.pod.grpc.descriptors import ProtoFile, descriptor

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
    "*inputs:ModelMetadataResponse.TensorMetadata *outputs:ModelMetadataResponse.TensorMetadata "
    "%properties:string",
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
    # The part of Triton's model_config.proto that is true of a model here.
    "ModelConfigRequest": "name:string version:string",
    "ModelInput": "name:string data_type:DataType *dims=4:int64",
    "ModelOutput": "name:string data_type:DataType *dims:int64",
    "ModelDynamicBatching": "*preferred_batch_size:int32 max_queue_delay_microseconds:uint64",
    "ModelConfig": "name:string platform:string max_batch_size=4:int32 *input:ModelInput *output:ModelOutput "
    "default_model_filename=8:string |dynamic_batching=11:ModelDynamicBatching backend=17:string",
    "ModelConfigResponse": "config:ModelConfig",
    "ModelStatisticsRequest": "name:string version:string",
    "StatisticDuration": "count:uint64 ns:uint64",
    "InferStatistics": "success:StatisticDuration fail:StatisticDuration queue:StatisticDuration "
    "compute_input:StatisticDuration compute_infer:StatisticDuration compute_output:StatisticDuration "
    "cache_hit:StatisticDuration cache_miss:StatisticDuration",
    "ModelStatistics": "name:string version:string last_inference:uint64 inference_count:uint64 "
    "execution_count:uint64 inference_stats:InferStatistics",
    "ModelStatisticsResponse": "*model_stats:ModelStatistics",
}
# Beside them ModelStreamInfer, the only one whose messages have other names.
_UNARY = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip
_METHODS = " ".join(f"{name}({name}Request){name}Response" for name in _UNARY)
_STREAMED = "ModelStreamInfer(*ModelInferRequest)*ModelStreamInferResponse"
_DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
    "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING",
    "TYPE_BF16",
)  # fmt: skip
HEALTH = "grpc.health.v1"
_LOOKS = ("Check(HealthCheckRequest)", "Watch(HealthCheckRequest)*")
_STATUS = "HealthCheckResponse.ServingStatus"
# The second is what clients ask for that are older than 2022.
REFLECTIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_REFLECTION = {
    "ServerReflectionRequest": "host:string |file_by_filename=3:string |file_containing_symbol:string "
    "|file_containing_extension:ExtensionRequest |all_extension_numbers_of_type:string "
    "|list_services:string",
    "ExtensionRequest": "containing_type:string extension_number:int32",
    "ServerReflectionResponse": "valid_host:string original_request:ServerReflectionRequest "
    "|file_descriptor_response=4:FileDescriptorResponse "
    "|all_extension_numbers_response:ExtensionNumberResponse "
    "|list_services_response:ListServiceResponse |error_response:ErrorResponse",
    "FileDescriptorResponse": "*file_descriptor_proto:bytes",
    "ExtensionNumberResponse": "base_type_name:string *extension_number:int32",
    "ListServiceResponse": "*service:ServiceResponse",
    "ServiceResponse": "name:string",
    "ErrorResponse": "error_code:int32 error_message:string",
}
FILES = (
    ProtoFile(
        "slipway/inference.proto",
        PACKAGE,
        _MESSAGES,
        {"GRPCInferenceService": f"{_METHODS} {_STREAMED}"},
        {"DataType": _DATA_TYPES},
        {"ModelConfig": "scheduling_choice"},
    ),
    ProtoFile(
        "slipway/health.proto",
        HEALTH,
        {"HealthCheckRequest": "service:string", "HealthCheckResponse": f"status:{_STATUS}"},
        {"Health": " ".join(f"{how}HealthCheckResponse" for how in _LOOKS)},
        {_STATUS: ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")},
    ),
    *(
        ProtoFile(
            f"slipway/{package.replace('.', '/')}.proto",
            package,
            _REFLECTION,
            {"ServerReflection": "ServerReflectionInfo(*ServerReflectionRequest)*ServerReflectionResponse"},
            choices={
                "ServerReflectionRequest": "message_request",
                "ServerReflectionResponse": "message_response",
            },
        )
        for package in REFLECTIONS
    ),
)

POOL = descriptor_pool.DescriptorPool()
for _file in FILES:
    POOL.Add(descriptor(_file))


def message(name: str, package: str = PACKAGE) -> Any:
    """The class of a message, e.g. `message("ModelInferRequest")`."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{package}.{name}"))


def services() -> list[str]:
    """The whole names of the services there are."""
    return [f"{file.package}.{name}" for file in FILES for name in file.services]
