"""The cluster's API server, spoken to in plain objects (the JSON of the API as dicts).

Of the official client this uses what is hard to do right: where the cluster is and who we are (a kubeconfig
with its plugins and tokens that are renewed, or a pod's own service account). Objects stay as the server
gives them: nothing is lost that the client library does not know yet.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from model_store.errors import Permanent, Retryable, SlipwayError
from serving.platforms.kubernetes.installation import Installation

Object = dict[str, Any]

# Our name in `metadata.managedFields`: what we wrote is told apart from what people and autoscalers wrote.
FIELD_MANAGER = "slipway"

# Answers to a change of one very object (by its uid) that is not there any more.
_GONE = frozenset({404, 409})

# A log that there is not: no pod, or none that has begun.
_NO_LOG = frozenset({400, 404})

_CONNECT_SECONDS, _READ_SECONDS = 3.0, 10.0

# Where each kind lives: its API's path, and its name in paths and rights.
GROUPS = {
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "Pod": ("/api/v1", "pods"),
    "PodLog": ("/api/v1", "pods/log"),
    "Event": ("/api/v1", "events"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}


class Denied(Permanent):
    """The cluster understood and says no: missing rights (403), or an object that it does not accept (422).

    `is_right`: whether what is missing are rights of ours, and not something about the object.
    """

    def __init__(self, problem: str, *, remedy: str, is_right: bool) -> None:
        super().__init__(problem, remedy=remedy)
        self.is_right = is_right


class ClusterApi:
    """Connects with the first call. Every method raises `Retryable` while the API server does not answer."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._client: Any = None
        self._lock = threading.Lock()

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """None where there is none."""
        return self._call("GET", _path(kind, namespace, name))

    def list(self, kind: str, namespace: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """What matches the selectors. As fresh as the cluster's own state: the server answers from its cache
        and waits until that is up to date (Kubernetes 1.31 and later; earlier it asks etcd)."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        found = self._call(
            "GET", _path(kind, namespace), {key: value for key, value in query.items() if value}
        )
        return list((found or {}).get("items") or [])

    def version(self, kind: str, namespace: str, *, labels: str) -> str:
        """Of the cluster's state now, for a watch to begin at."""
        query = {"labelSelector": labels, "limit": "1"}
        found = self._call("GET", _path(kind, namespace), query)
        return str((found or {})["metadata"]["resourceVersion"])

    def watch(self, kind: str, namespace: str, *, labels: str, since: str, seconds: int) -> Iterator[bytes]:
        """What happens from a version on, an event a line. Ends by itself; raises as `list` does."""
        query = {
            "watch": "true",
            "labelSelector": labels,
            "resourceVersion": since,
            "timeoutSeconds": str(seconds),
        }
        rest = b""
        for part in self._streamed(_path(kind, namespace), query, read_seconds=seconds + _READ_SECONDS):
            *lines, rest = (rest + part).split(b"\n")
            yield from filter(None, lines)

    def apply(self, wanted: Object, *, dry_run: bool = False) -> Object:
        """Have it as `wanted` says, by server-side apply: what others wrote into other fields stays.

        `dry_run`: only have it judged, by everything that judges the real thing. Raises `Denied`.
        """
        metadata = wanted["metadata"]
        path = _path(wanted["kind"], metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        kind = "application/apply-patch+yaml"
        return self._call("PATCH", path, query, wanted, kind_of_body=kind, missing=frozenset()) or {}

    def create(self, wanted: Object) -> Object | None:
        """None where it is there already."""
        path = _path(wanted["kind"], wanted["metadata"]["namespace"])
        return self._call("POST", path, {"fieldManager": FIELD_MANAGER}, wanted, missing=frozenset({409}))

    def replace(self, wanted: Object) -> Object | None:
        """The object as it was read, with another content; None where somebody changed it since."""
        metadata = wanted["metadata"]
        path = _path(wanted["kind"], metadata["namespace"], metadata["name"])
        return self._call("PUT", path, {"fieldManager": FIELD_MANAGER}, wanted, missing=_GONE)

    def merge(self, kind: str, namespace: str, name: str, change: Object) -> None:
        """Change some fields of what is there. What has gone meanwhile is no error, nor, with a uid among the
        fields, what was made anew."""
        query = {"fieldManager": FIELD_MANAGER}
        path = _path(kind, namespace, name)
        kind_of_body = "application/merge-patch+json"
        self._call("PATCH", path, query, change, kind_of_body=kind_of_body, missing=_GONE)

    def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """That very object, with what it owns. What has gone, or was made anew, is no error."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self._call("DELETE", _path(kind, namespace, name), body=options, missing=_GONE)

    def log(self, namespace: str, name: str, *, since: str = "") -> str:
        """What the pod's one container wrote, each line behind its time; from a time (RFC 3339) on. Empty
        where there is no such pod, or it has not begun."""
        query = {"timestamps": "true", **({"sinceTime": since} if since else {})}
        path = f"{_path('Pod', namespace, name)}/log"
        found = self._bytes("GET", path, query, missing=_NO_LOG, accept="*/*")
        return (found or b"").decode(errors="replace")

    def may(self, verb: str, kind: str, namespace: str) -> bool:
        """Whether we have this right, as the cluster says."""
        path, plural = GROUPS[kind]
        group = path.split("/")[2] if path.startswith("/apis/") else ""
        resource, _, part = plural.partition("/")
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        attributes |= {"subresource": part} if part else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool(answer and answer["status"].get("allowed"))

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        kind_of_body: str = "application/json",
        missing: frozenset[int] = frozenset({404}),
    ) -> Object | None:
        """The answer's object; None for a status in `missing`."""
        content = self._bytes(method, path, query, body, kind_of_body=kind_of_body, missing=missing)
        if content is None:
            return None
        try:
            found: Object = json.loads(content)
        except ValueError as error:
            raise _away(error) from error
        return found

    def _bytes(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        kind_of_body: str = "application/json",
        missing: frozenset[int],
        accept: str = "application/json",
    ) -> bytes | None:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = self._connected().call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": kind_of_body},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(_CONNECT_SECONDS, _READ_SECONDS),
            )
            return bytes(answer.data)
        except ApiException as error:
            if error.status in missing:
                return None
            raise _refused(error, method, path) from error
        except (HTTPError, OSError, ValueError) as error:
            raise _away(error) from error

    def _streamed(self, path: str, query: Mapping[str, str], *, read_seconds: float) -> Iterator[bytes]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        answer = None
        try:
            answer = self._connected().call_api(
                path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(_CONNECT_SECONDS, read_seconds),
            )
            yield from answer.stream(amt=None, decode_content=False)
        except ApiException as error:
            raise _refused(error, "GET", path) from error
        except (HTTPError, OSError) as error:
            raise Retryable(f"the API server ended a watch: {error}", remedy="it is begun again") from error
        finally:
            if answer is not None:
                answer.close()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect(self._installation)
            return self._client


def _away(error: Exception) -> Retryable:
    return Retryable(
        f"the API server of the cluster does not answer: {error}",
        remedy="pods go on serving meanwhile; look whether the cluster's control plane is up",
    )


def _path(kind: str, namespace: str, name: str = "") -> str:
    group, plural = GROUPS[kind]
    return f"{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def _connect(installation: Installation) -> Any:
    """Raises `Permanent` where nothing says which cluster is meant, or the library is not there."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise Permanent(
            "the Python package `kubernetes` is not installed here",
            remedy="pip install 'slipway[kubernetes]' where Airflow and the controller run",
        ) from error
    settings = client.Configuration()
    settings.retries = 1
    try:
        # As the library's own `load_config`, but a kubeconfig that was named is never passed over.
        if installation.kubeconfig or not _in_cluster():
            config.load_kube_config(
                installation.kubeconfig, installation.context, client_configuration=settings
            )
        else:
            config.load_incluster_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise Permanent(
            f"which cluster is meant is not said: {error}",
            remedy="set KUBECONFIG, name a kubeconfig in kubernetes.yaml, or run in the cluster "
            "with a service account (docs/kubernetes.md)",
        ) from error
    return client.ApiClient(settings)


def _in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not os.environ.get("KUBECONFIG")


def _refused(error: Any, method: str, path: str) -> SlipwayError:
    """What the server's answer means: its own sentence, and whether waiting helps."""
    said, status = _sentence(error), error.status
    if status == 401:
        return Permanent(
            f"the cluster does not know who we are: {said}",
            remedy="renew the kubeconfig's credentials, or the service account's token",
        )
    if status == 403 and "cannot" in said and "User " in said:
        return Denied(
            f"the cluster does not let us: {said}",
            remedy="give Slipway's account the Role of docs/kubernetes.md",
            is_right=True,
        )
    if status in (400, 403, 404, 405, 409, 415, 422):
        remedy = "change what the spec or kubernetes.yaml asks for, or what the cluster allows"
        return Denied(f"the cluster refuses it: {said}", remedy=remedy, is_right=False)
    return Retryable(
        f"the API server answered {method} {path} with {status}: {said}",
        remedy="pods go on serving meanwhile; look whether the cluster's control plane is healthy",
    )


def _sentence(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.body or error.reason or "no reason given")[:400]
