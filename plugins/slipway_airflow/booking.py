"""The two steps that write what became of a release: when it is promoted, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slipway_airflow import evidence, links, rolling, settling
from slipway_airflow.admission import give_up
from slipway_airflow.building import Told, opened
from slipway_airflow.failures import reasons
from slipway_airflow.settling import Ending, Status
from slipway_airflow.wiring import now

if TYPE_CHECKING:
    from airflow.sdk import Context

    from slipway_airflow.releases import Release
    from slipway_airflow.wiring import Services


def promote(context: Context, release_id: str, bundle: str, gated: Sequence[str]) -> Told:
    """Evidence first, the alias last: whoever sees the champion can read why it is one."""
    services, release = opened(release_id)
    state = rolling.require_promoted(services, release)
    ending = Ending(Status.PROMOTED, state.reason)
    _write_down(context, services, release, ending, bundle, gated)
    rolling.move_champion(services, release)
    give_up(services, release)
    return Told(release.id, f"{release.ref} is champion")


def settle(context: Context, release_id: str, bundle: str | None, gated: Sequence[str]) -> Told:
    """Traffic, pods and lock before anything that needs MLflow, which may be what failed."""
    services, release = opened(release_id)
    failures = reasons(context)
    ending = settling.settle_traffic(services, release, failures)
    give_up(services, release)
    if release.request.dry_run and not failures:
        return Told(release.id, "dry run: nothing to settle")
    _write_down(context, services, release, ending, bundle, gated)
    return Told(release.id, f"{release.ref} {ending.status.value}: {ending.reason}")


def _write_down(
    context: Context,
    services: Services,
    release: Release,
    ending: Ending,
    bundle: str | None,
    gated: Sequence[str],
) -> None:
    run = evidence.write(services, release, ending, gated=list(gated or ()), bundle_id=bundle, at=now())
    links.point(context, links.EvidenceLink, run.url)
    links.point(context, links.ModelVersionLink, services.registry.version_url(release.ref))
    if evidence.data_docs(services, release).is_dir():
        links.point(context, links.DataDocsLink, evidence.data_docs_url(run))
    settling.book(services, release, ending, bundle_id=bundle)
