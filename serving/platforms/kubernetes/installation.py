"""What a platform team says once for all services: `<home>/kubernetes.yaml`, or SLIPWAY_KUBERNETES.

Every field has a default but `image` and `bundles`, without which there is nothing to run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from model_store.errors import Permanent
from model_store.release_spec.document import InvalidSpec
from model_store.release_spec.kubernetes import (
    BuildKubernetes,
    Kubernetes,
    LabelKey,
    LabelValue,
    Name,
    Namespace,
    Pods,
)
from model_store.release_spec.load import read_section
from model_store.release_spec.section import Found, Section
from model_store.storage.opening import URL_VARIABLE
from serving.home import Home

NAMED_BY = "SLIPWAY_KUBERNETES"

# A folder of this machine is none of a node's.
_REACHED_BY_PODS = ("s3", "gs")


class SecretKey(Section):
    """One value of a Secret in the pods' namespace."""

    name: Name
    key: str


class BundleLocation(Section):
    """Where pods get their bundle: exactly one of `url`, `host_path` and `claim`.

    `url`: object storage, as `SLIPWAY_STORAGE_URL` names it; `secret`: a Secret whose entries are the
    credentials' environment variables. `host_path` and `claim`: a folder of each node, or a volume that many
    may read, in which the bundles already lie by their ids.
    """

    url: str | None = None
    secret: Name | None = None
    host_path: str | None = None
    claim: Name | None = None

    def contradictions(self) -> list[Found]:
        named = [each for each in ("url", "host_path", "claim") if getattr(self, each) is not None]
        if len(named) != 1:
            return [((), f"name exactly one of url, host_path, claim; found {named}")]
        return [(("secret",), "credentials are for a url")] if self.secret and not self.url else []


class BundleCache(Section):
    """Where a fetched bundle is kept. Left out: with its pod, and gone with it. Otherwise one of `host_path`
    (a folder of each node) and `claim`: a second pod of the version finds it there."""

    host_path: str | None = None
    claim: Name | None = None

    def contradictions(self) -> list[Found]:
        return (
            [((), "name one of host_path, claim")] if (self.host_path is None) == (self.claim is None) else []
        )


class Builds(BuildKubernetes):
    """What specs leave out in `build.kubernetes`. `secret`: a Secret whose entries are the environment by
    which stages reach the storage, to which they also write."""

    secret: Name | None = None


class Installation(Section):
    """`name`: told apart from other Slipways in the same namespaces. `namespaces`: those that specs may name;
    the first is taken where they name none.

    `notice_seconds`: from when a pod is ending until it is told so; Envoys stop asking it meanwhile.
    `drain_seconds`: then it finishes what it has.
    """

    name: LabelValue = "slipway"
    kubeconfig: str | None = None
    context: str | None = None
    namespaces: tuple[Namespace, ...] = Field(default=("slipway",), min_length=1)
    bundles: BundleLocation | None = None
    bundle_cache: BundleCache | None = None
    redis: SecretKey | None = None
    spread_over: LabelKey = "kubernetes.io/hostname"
    notice_seconds: Annotated[int, Field(ge=1, le=300)] = 5
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = 15
    defaults: Kubernetes = Kubernetes()
    builds: Builds = Builds()

    def namespace(self, asked: Pods) -> str:
        """Raises `Permanent` for one that specs may not name."""
        wanted = asked.namespace or self.namespaces[0]
        if wanted not in self.namespaces:
            raise Permanent(
                f"specs may name the namespaces {', '.join(self.namespaces)}, and this one names `{wanted}`",
                remedy="name one of those, or have it added to `namespaces` in kubernetes.yaml",
            )
        return wanted


def read_installation(home: Home, environ: Mapping[str, str] = os.environ) -> Installation:
    """All defaults where there is no file. Raises `Permanent` with every wrong line.

    Bundles are where the installation keeps them (SLIPWAY_STORAGE_URL), unless the file says otherwise.
    """
    named = environ.get(NAMED_BY)
    path = Path(named) if named else home.root / "kubernetes.yaml"
    found = _read(path) if named or path.exists() else Installation()
    url = environ.get(URL_VARIABLE, "")
    if found.bundles is None and url.partition("://")[0] in _REACHED_BY_PODS:
        return found.model_copy(update={"bundles": BundleLocation(url=url)})
    return found


def _read(path: Path) -> Installation:
    try:
        return read_section(path, Installation)
    except InvalidSpec as error:
        remedy = f"correct {path} (docs/kubernetes.md lists the fields)"
        raise Permanent(error.problem, remedy=remedy) from error


def merged(installation: Installation, asked: Kubernetes) -> Kubernetes:
    """What the spec says, and the installation's word for what it leaves out."""
    said = {name: value for name in Kubernetes.model_fields if (value := getattr(asked, name)) is not None}
    return installation.defaults.model_copy(update=said)
