"""Envoy's configuration, written as files it watches: bootstrap, clusters, routes, endpoints.

Nothing here decides anything: `serving.gateway.router.envoy_file` says what to write and when.
"""

from serving.gateway.bootstrap import command, prepare

__all__ = ["command", "prepare"]
