"""Which implementation stands behind each port. The only module that chooses.

The command line, the controller, the page, Airflow's tasks and tests take what they need from here, and know
the ports alone (`serving.platforms.base`, `serving.gateway.router.base`, `serving.metrics.base`).
Implementations are imported when they are asked for: who only returns traffic does not load what builds
versions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import Permanent
from model_store.extensions import GATEWAYS, METRICS_SOURCES
from serving.control.releases import Release, Releases
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import Journal, KeptJournal, StateRows
from serving.control.rollout.lock import ReleaseLock
from serving.control.traffic import TrafficControl
from serving.control.wiring import Services, now
from serving.gateway.delivery.base import Proxy, ProxyState, Server
from serving.gateway.router.base import Candidate, TrafficRouter
from serving.home import ADS, Home
from serving.ledger.base import Leases, Ledger, Rows
from serving.metrics.base import MetricsSource
from serving.metrics.latency import LatencySource
from serving.platforms.base import Platform
from serving.types import Route

if TYPE_CHECKING:
    from serving.control.controller.acts import Acts
    from serving.platforms.kubernetes.stage_pods import StageCluster

# The gateway that there is, and what it counts. Platforms are chosen by each version's spec.
ENVOY = "envoy"


def platform_of(home: Home) -> Platform:
    """Where pods run: each deployment where its bundle's spec says."""
    from serving.platforms import by_spec

    return by_spec.platform_of(home)


def stage_cluster_of(home: Home) -> StageCluster:
    """Where stages of builds run that are not run here."""
    from serving.platforms.kubernetes.stage_pods import StageCluster

    return StageCluster(home)


def told_of(home: Home) -> TrafficRouter:
    """What the gateway of this machine follows: the controller tells it what was decided."""
    told: TrafficRouter = GATEWAYS.load(ENVOY)(home)
    return told


def router_of(home: Home) -> TrafficRouter:
    """Which arm a request meets, for everybody but the controller: it is asked."""
    from serving.control.routes_client import RoutesClient

    return RoutesClient(home)


def gateway_server_of(home: Home, *, serves: Callable[[], bool] = lambda: True) -> Server:
    """What tells the gateway's proxies, for the process that moves traffic; only while `serves` says so."""
    from serving.gateway.delivery.choice import delivery_of

    return delivery_of(home).server(serves)


def proxies_of(home: Home) -> list[Proxy]:
    """The gateway's proxies, and what each has taken."""
    from serving.gateway.delivery.choice import delivery_of

    return delivery_of(home).proxies()


def journal_of(home: Home) -> Journal:
    """Where rollouts stand, for everybody but the controller."""
    return Journal(rows_of(home))


def metrics_of(home: Home) -> MetricsSource:
    """What happened to requests."""
    if home.delivery == ADS:
        from serving.metrics.proxies import Proxies

        return Proxies(lambda: _admins_of(home))
    source: MetricsSource = METRICS_SOURCES.load(ENVOY)(home)
    return source


def latencies_of(home: Home, *, timeout_seconds: float) -> LatencySource:
    """How long requests took."""
    if home.delivery == ADS:
        from serving.metrics.proxies import Proxies

        return Proxies(lambda: _admins_of(home), timeout_seconds=timeout_seconds)
    from serving.metrics.envoy import EnvoyAdmin

    return EnvoyAdmin(home.envoy_admin, timeout_seconds=timeout_seconds)


def candidate_of(home: Home, route: Route) -> Candidate:
    """The candidate of a route, asked as its callers will be answered."""
    from serving.gateway.candidate import CandidateThroughEnvoy

    return CandidateThroughEnvoy(home, route)


def _admins_of(home: Home) -> dict[str, str]:
    """Where the proxies that are there can be asked, by id."""
    there = (each for each in proxies_of(home) if each.state is not ProxyState.GONE)
    return {each.id: each.admin for each in there}


def wire(home: Home | None = None) -> Services:
    """The services of the installation that `SLIPWAY_HOME` names. Opens nothing yet.

    Traffic is the controller's to move: they ask it.
    """
    from serving.control.client import ControllerClient

    home = home or Home.locate()
    rows = rows_of(home)
    return _services(home, ControllerClient(home), rows, Journal(rows), router_of(home))


def wire_pages() -> Services:
    """The same for pages, which ask for all routes again and again."""
    from serving.control.routes_client import KeptRoutes, RoutesClient

    services = wire()
    is_asked = isinstance(services.router, RoutesClient)
    return replace(services, router=KeptRoutes(services.home)) if is_asked else services


def rows_of(home: Home) -> Rows:
    """The ledger's rows, for everybody but the controller: it is asked for them."""
    from serving.control.rows_client import RowsClient

    return RowsClient(home)


def ledger_of(
    home: Home, environ: Mapping[str, str] = os.environ, *, patience_seconds: float | None = None
) -> Ledger:
    """The ledger itself, for the controller alone: in the home, or where `SLIPWAY_DATABASE_URL` says.
    `patience_seconds`: how long one operation may wait for it.

    Raises `Permanent` for a URL that is none, `NewerLedger`, and `Unreachable`.
    """
    from serving.ledger.database import PATIENCE_SECONDS
    from serving.ledger.opening import open_ledger, url_of

    patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    return open_ledger(url_of(home.root, environ), patience_seconds=patience)


def restore_ledger(home: Home, backup: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Put a backup where this home's ledger is to be, while no controller runs.

    Raises `Permanent` where there is one already, and where the ledger is PostgreSQL's.
    """
    from serving.ledger.backup import restore_sqlite
    from serving.ledger.opening import FILE, url_of

    path = home.root / FILE
    if url_of(home.root, environ) != f"sqlite:///{path}":
        raise Permanent(
            "this installation's ledger is not in the home", remedy="use pg_restore (docs/ledger.md)"
        )
    restore_sqlite(backup, path)
    return path


def leases_of(home: Home, ledger: Ledger, environ: Mapping[str, str] = os.environ) -> Leases:
    """Who says which of several controllers writes: the ledger, or the cluster that they run in, where
    `SLIPWAY_KUBERNETES_LEASE` names the namespace of its Lease.

    Raises `Permanent` where the cluster's settings cannot be read.
    """
    from serving.platforms.kubernetes import leases

    if not (namespace := environ.get(leases.NAMESPACE)):
        return ledger
    return leases.leases_of(home, namespace, environ)


def wire_controller(
    home: Home, rows: StateRows, *, require_last: Callable[[], None] = lambda: None
) -> tuple[Services, Acts]:
    """The services as the controller has them, and what it does if it is asked. `require_last` raises where
    another controller has taken over: then not even traffic is returned from here."""
    from serving.control.controller.acts import Acts
    from serving.gateway.router.kept import LedgerRouter

    journal = KeptJournal(rows)
    router = LedgerRouter(rows, told_of(home), now=now, require_last=require_last)
    rollouts = Rollouts(journal, router, now=now)
    acts = Acts(rollouts, lambda: services, candidate_of, take_what_runs=router.adopt)
    services = _services(home, acts, rows, journal, router)
    return services, acts


def _services(
    home: Home, rollouts: TrafficControl, rows: Rows, journal: Journal, router: TrafficRouter
) -> Services:
    from model_store.registry import Registry
    from model_store.storage.store import open_store
    from serving.gateway.router.history import LedgerHistory

    return Services(
        home=home,
        releases=Releases(rows),
        store=open_store(home.store),
        registry=Registry(home.mlflow_url),
        router=router,
        history=LedgerHistory(rows),
        platform=platform_of(home),
        journal=journal,
        lock=ReleaseLock(rows, now=now),
        rollouts=rollouts,
        rows=rows,
    )


def opened(release_id: str) -> tuple[Services, Release]:
    """The installation, and the release a task belongs to."""
    services = wire()
    return services, services.releases.load(release_id)
