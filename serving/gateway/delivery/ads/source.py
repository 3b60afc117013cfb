"""What Envoys' bootstraps and resources say of the server, and what is known of who asks it.

Needs no gRPC: processes that only move traffic, or read a status, load this alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from model_store.errors import Permanent
from serving.credentials import write_secret
from serving.gateway.delivery.ads import proxies_file
from serving.gateway.delivery.base import Proxy, Server, always, lacking
from serving.gateway.xds import Message, typed
from serving.home import Home
from serving.types import Route

# Where Envoys find the servers, as `host:port,host:port`; where the server listens.
SERVERS, LISTEN = "SLIPWAY_ADS_SERVERS", "SLIPWAY_ADS_LISTEN"
# What Envoys show, where they have not the home's files.
TOKEN = "SLIPWAY_ADS_TOKEN"  # noqa: S105 - the variable's name
# No service can have this name.
_CLUSTER = "(ads)"


class Ads:
    """`Delivery` by xDS."""

    def __init__(self, home: Home, environ: Mapping[str, str] = os.environ) -> None:
        self._home, self._environ = home, environ

    def source(self, path: Path) -> Message:
        # Nothing is better than half: Envoy listens once it has been told.
        return {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}

    def endpoints(self, cluster: str) -> Message | None:
        return {"resource_api_version": "V3", "ads": {}}

    def require_room(self, before: Route, after: Route) -> None:
        """There is no limit."""

    def server(self, serves: Callable[[], bool] = always) -> Server:
        from serving.gateway.delivery.ads.server import AdsServer

        return AdsServer(self._home, listen=self.listen(), token=self.token(), serves=serves)

    def proxies(self, services: Iterable[str] | None = None) -> list[Proxy]:
        return proxies_file.read(self._home)

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        found = self.proxies()
        if not any(proxy.is_ready for proxy in found):
            return ("no Envoy has taken the gateway's resources: `./slipway proxies` shows who is there",)
        return lacking(found, route)

    def listen(self) -> str:
        """Where the server of this machine listens."""
        return self._environ.get(LISTEN) or f"127.0.0.1:{self._home.ports.ads}"

    def token(self) -> str:
        """What an Envoy has to show, for resources hold API keys. Made on first use, mode 0600."""
        if given := self._environ.get(TOKEN, "").strip():
            return given
        path = self._home.envoy / "ads-token"
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def servers(self) -> tuple[Message, list[Message]]:
        shown = [{"key": "authorization", "value": f"Bearer {self.token()}"}]
        again = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
        service = {"envoy_grpc": {"cluster_name": _CLUSTER, "retry_policy": again}, "initial_metadata": shown}
        config = {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [service],
        }
        return {"ads_config": config}, [self._cluster()]

    def _cluster(self) -> Message:
        members = [{"endpoint": {"address": {"socket_address": each}}} for each in self._addresses()]
        # A server that is gone without a word is noticed, and another one asked: about when it loses its
        # lease, as a stopped controller must not be the one that is listened to.
        alive = {"interval": "3s", "timeout": "5s"}
        return {
            "name": _CLUSTER,
            "type": "STRICT_DNS",
            # A name may have addresses of both kinds, of which the server has one.
            "dns_lookup_family": "ALL",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": _CLUSTER, "endpoints": [{"lb_endpoints": members}]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    explicit_http_config={"http2_protocol_options": {"connection_keepalive": alive}},
                )
            },
        }

    def _addresses(self) -> list[Message]:
        given = self._environ.get(SERVERS) or f"127.0.0.1:{self._home.ports.ads}"
        return [_address(each.strip()) for each in given.split(",")]


def _address(text: str) -> Message:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise Permanent(f"{SERVERS}: {text!r} is no address", remedy="give host:port, or several with commas")
    return {"address": host.strip("[]"), "port_value": int(port)}
