"""The scenarios of the demo, each a few acts: a version, how its release is asked for, how it should end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from demo.models import MODEL, RECIPES
from model_store.errors import Permanent

Asked = Literal["command", "registry"]
Ending = Literal["promoted", "blocked", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Act:
    """One release. `asked`: `./slipway release`, or the alias `candidate` set in MLflow and nothing else."""

    version: int
    asked: Asked
    ending: Ending

    @property
    def story(self) -> str:
        return RECIPES[self.version].story


@dataclass(frozen=True, slots=True)
class Scenario:
    """`faults` is what `SLIPWAY_FAULTS` says for pods (see `serving.runtime.faults`)."""

    name: str
    model: str
    acts: tuple[Act, ...]
    faults: str


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "credit",
            MODEL,
            (
                Act(1, "command", "promoted"),
                Act(2, "registry", "promoted"),
                Act(3, "command", "blocked"),
                Act(4, "command", "rolled_back"),
            ),
            faults=f"{MODEL}@4:error_rate=0.2",
        ),
    )
}


def scenario(name: str) -> Scenario:
    """Raises `Permanent` listing what exists."""
    if name not in SCENARIOS:
        raise Permanent(f"there is no scenario {name!r}", remedy=f"Scenarios: {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]
