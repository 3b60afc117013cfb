"""Where the files of Envoy's resources are."""

from __future__ import annotations

from pathlib import Path

from serving.envoy_names import ASSIGNED_SUFFIXES
from serving.home import Home


def bootstrap_file(home: Home) -> Path:
    return home.envoy / "bootstrap.json"


def clusters_file(home: Home) -> Path:
    return home.envoy / "clusters.json"


def routes_file(home: Home) -> Path:
    return home.envoy / "routes.json"


def assignment_file(home: Home, cluster: str) -> Path:
    """The endpoints of a cluster. A service's own is its route's record, too."""
    for suffix in ASSIGNED_SUFFIXES:
        if service := cluster.removesuffix(suffix) if cluster.endswith(suffix) else "":
            return home.routes / service / f"{suffix.removeprefix('.')}.json"
    return home.routes / cluster / "endpoints.json"
