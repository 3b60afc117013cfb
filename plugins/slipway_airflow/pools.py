"""Who may work at the same time: builds must not keep rollouts waiting, and a target carries so many at once.

The scheduler makes the pools when it starts, where they are missing; how many slots they have is then for
those who run Airflow to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store.extensions import PLATFORMS

BUILDS = "slipway_builds"


@dataclass(frozen=True, slots=True)
class PoolOf:
    """`waits_count`: tasks that wait in the triggerer keep their slot."""

    name: str
    slots: int
    description: str
    waits_count: bool


def rollouts(target: str) -> str:
    """The pool of rollouts onto a target."""
    return f"slipway_rollouts_{target}"


def pools(parallelism: int) -> list[PoolOf]:
    """`parallelism`: how many tasks the executor runs at once; one place stays free of builds."""
    builds = max(1, parallelism - 1)
    return [
        PoolOf(BUILDS, builds, "Export, quantize, compile, measure: what needs a processor for long", False),
        PoolOf(rollouts("local"), 32, "Rollouts at the same time on this machine", True),
        *(
            PoolOf(rollouts(name), 128, f"Rollouts at the same time on {name}", True)
            for name in PLATFORMS.known()
            if name != "local"
        ),
    ]


def make_missing(parallelism: int) -> None:
    """Those that are there stay as they are."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        there = set(session.scalars(select(Pool.pool)))
        session.add_all(
            Pool(
                pool=one.name,
                slots=one.slots,
                description=one.description,
                include_deferred=one.waits_count,
            )
            for one in pools(parallelism)
            if one.name not in there
        )
