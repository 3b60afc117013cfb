"""Envoy's protobuf messages, made of the JSON in which its files are written.

Described in `envoy.binpb.gz` (see `descriptors/README.md`): what PyPI has of them is a package named `envoy`,
which the server's is too, and lacks clusters that we use (docs/decisions/0132).
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message as Protobuf

from model_store.errors import Permanent
from serving.gateway.xds import Message, version_of

_PREFIX = "type.googleapis.com/"

CLUSTERS: Final = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENERS: Final = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTES: Final = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"
EXTENSIONS: Final = f"{_PREFIX}envoy.config.core.v3.TypedExtensionConfig"

_ROUTE, _HOST = "envoy.config.route.v3.Route", "envoy.config.route.v3.VirtualHost"
_LENGTH_DELIMITED = 2

# The field of a message that a resource is asked for by.
_NAMED_BY = {ENDPOINTS: "cluster_name"}


class UnknownMessage(Permanent):
    """No resource that Envoy would understand."""


def name_of(resource: Message) -> str:
    """What Envoy asks for it by."""
    return str(resource[_NAMED_BY.get(resource["@type"], "name")])


class Encoder:
    """Makes bytes of resources, and remembers those of the parts that it was asked for last.

    A route table is one resource of all services (26 KB of JSON each), which takes seconds to make anew.
    """

    def __init__(self) -> None:
        self._routes: dict[str, bytes] = {}

    def encode(self, resource: Message) -> bytes:
        """Raises `UnknownMessage` for what Envoy would not understand."""
        if resource["@type"] == ROUTES:
            return self._table(resource)
        return encoded(resource["@type"], resource)

    def _table(self, table: Message) -> bytes:
        before, self._routes = self._routes, {}
        hosts = [self._host(host, before) for host in table["virtual_hosts"]]
        return _with(ROUTES, table, "virtual_hosts", hosts)

    def _host(self, host: Message, before: dict[str, bytes]) -> bytes:
        routes = []
        for route in host["routes"]:
            version = version_of(route)
            if version not in self._routes:
                self._routes[version] = before.get(version) or encoded(f"{_PREFIX}{_ROUTE}", route)
            routes.append(self._routes[version])
        return _with(f"{_PREFIX}{_HOST}", host, "routes", routes)


def encoded(type_url: str, content: Message) -> bytes:
    """The message of that type as bytes. Raises `UnknownMessage` for what is none."""
    name = type_url.removeprefix(_PREFIX)
    fields = {key: value for key, value in content.items() if key != "@type"}
    try:
        made = json_format.ParseDict(fields, kind(name)(), descriptor_pool=_pool())
        return bytes(made.SerializeToString(deterministic=True))
    except (KeyError, json_format.ParseError, TypeError) as problem:
        raise UnknownMessage(
            f"{name} is not as Envoy's messages are: {problem}",
            remedy="it is a fault of Slipway's; see serving/gateway/delivery/ads/descriptors/README.md",
        ) from problem


def _with(type_url: str, content: Message, field: str, members: list[bytes]) -> bytes:
    """A message whose repeated `field` has these members: in protobuf, what is put behind is merged.

    Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    number = kind(type_url.removeprefix(_PREFIX)).DESCRIPTOR.fields_by_name[field].number
    parts = [encoded(type_url, {key: value for key, value in content.items() if key != field})]
    for member in members:
        parts += (_varint(number << 3 | _LENGTH_DELIMITED), _varint(len(member)), member)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


@cache
def kind(name: str) -> type[Any]:
    """The class of a message. Raises KeyError for a name that is not described."""
    found: type[Protobuf] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))
    return found


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    content = gzip.decompress(Path(__file__).with_name("envoy.binpb.gz").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.Add(file)
    return pool
