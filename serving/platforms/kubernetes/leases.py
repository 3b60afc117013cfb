"""Who of several controllers writes, said by a Lease of the cluster (coordination.k8s.io/v1).

As Kubernetes' own components do it: a lease is over once its object has not changed for its whole time, as
whoever waits has seen it by their own uptime, so clocks of machines need not agree. `leaseTransitions`, which
grows with every holder, is the token.
Source: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from serving.home import Home
from serving.ledger.base import Fenced, Lease
from serving.platforms.kubernetes.api import ClusterApi, Object
from serving.platforms.kubernetes.installation import read_installation

# The namespace in which the Lease is, where it decides.
NAMESPACE = "SLIPWAY_KUBERNETES_LEASE"


def leases_of(home: Home, namespace: str, environ: Mapping[str, str]) -> KubernetesLeases:
    """Of the cluster and under the name that kubernetes.yaml says. Asks nobody yet."""
    installation = read_installation(home, environ)
    api = ClusterApi(installation)
    return KubernetesLeases(api, namespace, prefix=installation.name, monotonic=time.monotonic)


class KubernetesLeases:
    """`serving.ledger.base.Leases` in one namespace. `prefix` tells installations of one namespace apart."""

    def __init__(
        self,
        api: ClusterApi,
        namespace: str,
        *,
        prefix: str,
        monotonic: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._namespace, self._prefix = api, namespace, prefix
        self._monotonic, self._now = monotonic, now
        # By name: the version of the object that was seen last, and when it was seen first.
        self._seen: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        found = self._read(name)
        if found is None:
            made = self._object(name, holder, 1, seconds)
            return self._written(name, self._api.create(made))
        if found["spec"].get("holderIdentity") and not self._is_over(name, found):
            return None
        token = int(found["spec"].get("leaseTransitions") or 0) + 1
        wanted = self._object(name, holder, token, seconds, over=found)
        return self._written(name, self._api.replace(wanted))

    def renew(self, lease: Lease) -> Lease:
        found = self._ours(lease)
        spec = {**found["spec"], "renewTime": _time(self._now())}
        written = self._written(lease.name, self._api.replace({**found, "spec": spec}))
        if written is None:
            # Somebody was in between: who it was says whether it is lost.
            self._ours(lease)
            return self.renew(lease)
        return written

    def release(self, lease: Lease) -> None:
        try:
            found = self._ours(lease)
        except Fenced:
            return
        self._api.replace({**found, "spec": {**found["spec"], "holderIdentity": ""}})

    def lease(self, name: str) -> Lease | None:
        found = self._read(name)
        return _lease(name, found["spec"]) if found else None

    def _ours(self, lease: Lease) -> Object:
        """Raises `Fenced` where it is not any more."""
        found = self._read(lease.name)
        known = _lease(lease.name, found["spec"]) if found else None
        if found is None or known is None or known.fence != lease.fence:
            raise Fenced.of(lease.fence, known)
        return found

    def _read(self, name: str) -> Object | None:
        found = self._api.get("Lease", self._namespace, self._named(name))
        if found:
            self._note(name, found)
        return found

    def _note(self, name: str, found: Object) -> None:
        version = str(found["metadata"]["resourceVersion"])
        with self._lock:
            if self._seen.get(name, ("", 0.0))[0] != version:
                self._seen[name] = version, self._monotonic()

    def _is_over(self, name: str, found: Object) -> bool:
        seconds = float(found["spec"].get("leaseDurationSeconds") or 0)
        return self._monotonic() - self._seen[name][1] > seconds

    def _written(self, name: str, found: Object | None) -> Lease | None:
        """None where somebody else wrote first."""
        if found is None:
            return None
        self._note(name, found)
        return _lease(name, found["spec"])

    def _object(
        self, name: str, holder: str, token: int, seconds: float, *, over: Object | None = None
    ) -> Object:
        at = _time(self._now())
        metadata = {"name": self._named(name), "namespace": self._namespace}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": over["metadata"] if over else metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, math.ceil(seconds)),
                "leaseTransitions": token,
                "acquireTime": at,
                "renewTime": at,
            },
        }

    def _named(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def _lease(name: str, spec: dict[str, Any]) -> Lease:
    renewed = datetime.fromisoformat(spec.get("renewTime") or "1970-01-01")
    return Lease(
        name,
        str(spec.get("holderIdentity") or ""),
        int(spec.get("leaseTransitions") or 0),
        renewed if renewed.tzinfo else renewed.replace(tzinfo=UTC),
        float(spec.get("leaseDurationSeconds") or 0),
    )


def _time(at: datetime) -> str:
    """As Kubernetes writes a MicroTime."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
