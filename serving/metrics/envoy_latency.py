"""How long answers took, from the distributions that the gateway's log of attempts keeps in Envoy.

Envoy gathers them from its threads every five seconds, so they come later than its counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import orjson

from serving.envoy_names import ANSWERED, STABLE_SUFFIX, UNANSWERED
from serving.metrics.latency import Buckets, added, bucket_of
from serving.types import Endpoint

_KINDS = {ANSWERED: 0.001, UNANSWERED: 1.0}  # ms in a unit
# As `slipway.answered.service.fraud.host.127.0.0.1:8500`.
_NAME = re.compile(r"slipway\.(\w+)\.service\.(.+)\.host\.(.+):(\d+)")


def path_of(services: Iterable[str]) -> str:
    """What to ask Envoy's admin port for. Without the names it would look through every service's."""
    names = "|".join(re.escape(name) for name in services)
    wanted = rf"^slipway\.({'|'.join(_KINDS)})\.service\.({names})({re.escape(STABLE_SUFFIX)})?\.host\."
    return f"/stats?format=json&type=Histograms&histogram_buckets=detailed&filter={quote(wanted)}"


def parsed(content: bytes) -> dict[str, dict[Endpoint, Buckets]]:
    """By service and endpoint. Raises ValueError, KeyError or TypeError for what Envoy never says."""
    found: dict[str, dict[Endpoint, Buckets]] = {}
    for part in orjson.loads(content)["stats"]:
        for one in part.get("histograms", {}).get("details", ()):
            if named := _NAME.fullmatch(one["name"]):
                kind, service, host, port = named.groups()
                mine = found.setdefault(service.removesuffix(STABLE_SUFFIX), {})
                endpoint = Endpoint(host, int(port))
                mine[endpoint] = added(mine.get(endpoint, {}), _buckets(one["totals"], _KINDS[kind]))
    return found


def _buckets(totals: Iterable[dict[str, float]], unit_ms: float) -> Buckets:
    """Envoy's buckets are of two digits: each falls into ours by its middle."""
    middles = ((bucket_of(unit_ms * (one["lower_bound"] + one["width"] / 2)), one["count"]) for one in totals)
    return added(*({number: int(count)} for number, count in middles))
