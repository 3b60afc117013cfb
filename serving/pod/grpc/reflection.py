"""grpc.reflection: what services there are and what their messages look like, for clients like grpcurl.

Source: https://grpc.github.io/grpc/core/md_doc_server-reflection.html. v1 and v1alpha differ only in name.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from model_store.engines.errors import Refused
from serving.pod.grpc.messages import POOL, message, services
from serving.pod.grpc.status import INVALID_ARGUMENT, NOT_FOUND
from serving.pod.grpc.stream import Stream


class ReflectionMethod:
    """ServerReflectionInfo of one version: an answer for each message, until the client has no more."""

    # A client may hold its stream open as long as it likes.
    expects_a_message = False
    began = None

    def __init__(self, package: str) -> None:
        self._request = message("ServerReflectionRequest", package)
        self._response = message("ServerReflectionResponse", package)

    def message(self, stream: Stream, payload: bytes) -> None:
        try:
            request = self._request.FromString(payload)
        except DecodeError as error:
            raise Refused("the message is no reflection request", remedy="use grpc.reflection's") from error
        response = self._response(valid_host=request.host, original_request=request)
        _answer(response, request)
        stream.open_messages -= 1
        stream.send(response.SerializeToString())

    def input_ended(self, stream: Stream) -> None:
        if not stream.is_answered:
            stream.finish()


def _answer(response: Any, request: Any) -> None:
    kind = request.WhichOneof("message_request")
    if kind == "list_services":
        for name in services():
            response.list_services_response.service.add(name=name)
        return
    try:
        if kind == "file_by_filename":
            _add_files(response, POOL.FindFileByName(request.file_by_filename))
        elif kind == "file_containing_symbol":
            _add_files(response, POOL.FindFileContainingSymbol(request.file_containing_symbol))
        elif kind == "all_extension_numbers_of_type":
            # There are no extensions, but the type must be one of ours.
            name = POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
            response.all_extension_numbers_response.base_type_name = name
        else:
            _refuse(response, INVALID_ARGUMENT if kind is None else NOT_FOUND, "no extensions here")
    except KeyError:
        _refuse(response, NOT_FOUND, f"not here: {str(getattr(request, kind))[:200]}")


def _add_files(response: Any, file: FileDescriptor) -> None:
    response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)


def _refuse(response: Any, code: int, words: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = words
