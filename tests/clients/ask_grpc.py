"""What generic gRPC tools and Kubernetes' probes ask. argv: host:port. Writes what each call gave."""

import json
import sys
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
found: dict[str, Any] = {}


def note(name: str, ask: Callable[[], Any]) -> None:
    try:
        found[name] = ask()
    except grpc.RpcError as error:
        found[name] = f"{error.code().name}: {error.details()}"
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"


def reflected(method: str, **fields: Any) -> Any:
    """A call whose messages are known from nothing but reflection, as grpcurl makes it."""
    service = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName(method)
    asked = message_factory.GetMessageClass(service.input_type)(**fields)
    answered = message_factory.GetMessageClass(service.output_type)
    call = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}", response_deserializer=answered.FromString
    )
    return call(asked.SerializeToString(), timeout=10)


database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)
note("services", lambda: sorted(database.get_services()))
note(
    "methods",
    lambda: sorted(m.name for m in pool.FindServiceByName("inference.GRPCInferenceService").methods),
)
note("live", lambda: reflected("ServerLive").live)
note("ready", lambda: reflected("ServerReady").ready)
note("server", lambda: reflected("ServerMetadata").name)
note("metadata", lambda: reflected("ModelMetadata", name="echo_fp32").inputs[0].datatype)
note("config", lambda: reflected("ModelConfig", name="echo_fp32").config.input[0].name)
note("missing symbol", lambda: str(pool.FindMessageTypeByName("inference.Nothing")))
requests = [
    reflection_pb2.ServerReflectionRequest(list_services=""),
    reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such"),
    reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto"),
    reflection_pb2.ServerReflectionRequest(),
]
stub = reflection_pb2_grpc.ServerReflectionStub(channel)
note(
    "reflection",
    lambda: [
        answer.error_response.error_code or answer.WhichOneof("message_response")
        for answer in stub.ServerReflectionInfo(iter(requests), timeout=10)
    ],
)
v1 = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
note(
    "reflection v1",
    lambda: len(
        reflection_pb2.ServerReflectionResponse.FromString(
            next(iter(v1(iter([asked]), timeout=10)))
        ).list_services_response.service
    ),
)
health = health_pb2_grpc.HealthStub(channel)
Check, Status = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse.ServingStatus
for service in ("", "inference.GRPCInferenceService", "echo_fp32", "nobody"):
    note(
        f"health {service}",
        lambda service=service: Status.Name(health.Check(Check(service=service), timeout=10).status),
    )
    note(
        f"watch {service}",
        lambda service=service: Status.Name(
            next(iter(health.Watch(Check(service=service), timeout=10))).status
        ),
    )
unknown = channel.unary_unary("/inference.GRPCInferenceService/NoSuchMethod")
note("unknown method", lambda: unknown(b"", timeout=10))
note("unknown service", lambda: channel.unary_unary("/no.Such/Method")(b"", timeout=10))
sys.stdout.write(json.dumps(found))
