"""Requests that name a version: they go to whoever holds it, never by lot.

Beside a candidate each arm has one version, and what names one is no part of the split: it goes to clusters
that no verdict counts (docs/decisions/0113). Without a candidate a version that is served is live traffic.
A version nobody holds is refused here, with what is served.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from serving.envoy_names import PREVIEW_SUFFIX, STREAMS_SUFFIX
from serving.gateway import grpc
from serving.gateway.xds import Message
from serving.types import Route

_Match = Callable[..., Message]


def elsewhere(route: Route, match: _Match) -> Iterator[tuple[Message, str]]:
    """Which requests go to one arm alone, and its cluster."""
    if not route.stable or not route.candidate or route.stable.version == route.candidate.version:
        return
    yield _naming(route, match, str(route.stable.version)), route.service + STREAMS_SUFFIX
    yield _naming(route, match, str(route.candidate.version)), route.service + PREVIEW_SUFFIX


def of_candidate(route: Route, match: _Match) -> Message | None:
    """Which requests name the candidate's version; None where it is no other than stable's."""
    if not route.stable or not route.candidate or route.stable.version == route.candidate.version:
        return None
    return _naming(route, match, str(route.candidate.version))


def unknown(route: Route, match: _Match) -> Message:
    """Requests that name a version nobody holds."""
    found = _naming(route, match, ".*")
    known = _naming(route, match, "|".join(map(str, _versions(route))) or "-")
    return {**found, "headers": [*found["headers"], {**known["headers"][-1], "invert_match": True}]}


def served(route: Route) -> str:
    """For whoever asked for another version."""
    held = [f"version {route.stable.version}"] if route.stable else []
    held += [f"candidate version {route.candidate.version}"] if route.candidate else []
    return (
        f"{route.service} serves {' and '.join(held) or 'no version'} now, not the one that was asked for; "
        "leave the version out to get what serves"
    )


def _versions(route: Route) -> list[int]:
    return sorted({arm.version for arm in (route.stable, route.candidate) if arm})


def _naming(route: Route, match: _Match, version: str) -> Message:
    """A service's requests in one protocol whose version matches the pattern, by the last of its headers."""
    found = match(route.service)
    if "grpc" in found:
        named = _header(grpc.VERSION_HEADER, version)
    else:
        named = _header(
            ":path", rf"{re.escape(found['path_separated_prefix'])}/versions/({version})([/?].*)?"
        )
    return {**found, "headers": [*found.get("headers", ()), named]}


def _header(name: str, pattern: str) -> Message:
    return {"name": name, "string_match": {"safe_regex": {"regex": pattern}}}
