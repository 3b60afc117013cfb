"""Names that the gateway gives in Envoy and that the metrics are read by: neither need know the other.

`serving.gateway.attempts` says what each count means, `serving.gateway.clusters` what each cluster is.
"""

from __future__ import annotations

SLOW, BROKEN, ABANDONED = "slow", "broken", "abandoned"
REFUSED, REPEATED, MALFORMED = "refused", "repeated", "malformed"
# Its name in Envoy is of when it counted limits alone; a 404 says as little of a version.
UNINFORMATIVE = "limited"
NOTED = (SLOW, BROKEN, ABANDONED, REFUSED, REPEATED, MALFORMED, UNINFORMATIVE)

ANSWERED, UNANSWERED = "answered", "unanswered"

STABLE_SUFFIX = ".stable"
RETRYING_SUFFIX = ".retrying"
PREVIEW_SUFFIX = ".candidate"
STREAMS_SUFFIX = ".streams"
# Clusters that are told their endpoints, beside the service's own.
ASSIGNED_SUFFIXES = (STABLE_SUFFIX, STREAMS_SUFFIX, PREVIEW_SUFFIX)
# No service's name ends so.
RESERVED_SUFFIXES = (STABLE_SUFFIX, RETRYING_SUFFIX, PREVIEW_SUFFIX, STREAMS_SUFFIX)


def service_of(cluster: str) -> str:
    """The service that a cluster is of."""
    for suffix in RESERVED_SUFFIXES:
        cluster = cluster.removesuffix(suffix)
    return cluster
