"""The stages of a release's build that run elsewhere: what they are asked, and what they made."""

from __future__ import annotations

from typing import Any

from model_store.signing import public_part
from model_store.stage_exchange import RemoteStage, ask
from model_store.stage_request import Origin, request_of
from serving.control.releases import Release
from serving.control.wiring import Services


def asked(services: Services, release: Release, stage: str, handed_on: dict[str, Any]) -> RemoteStage:
    """Lay down what a stage is asked. Raises `Permanent` and `Retryable`.

    `export` is the first of them: what all stages are asked with is made anew for it, as files and spec may
    have changed since the run was last started.
    """
    origin = Origin(services.store, services.registry, services.home.root)
    return ask(
        services.store,
        _run_of(release),
        stage,
        lambda: request_of(origin, release.spec, release.ref),
        handed_on,
        anew=stage == "export",
    )


def known(services: Services, release: Release, stage: str, digest: str) -> RemoteStage:
    """What was asked before, by its digest."""
    return RemoteStage(services.store, _run_of(release), stage, digest)


def public_keys(services: Services) -> str:
    """By which a stage elsewhere verifies the champion's bundle."""
    return public_part(services.store.keys).decode()


def _run_of(release: Release) -> str:
    return release.id.replace("/", "-")
