"""The scenarios of the demo, each a few acts: a version, how its release is asked for, how it should end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demo.models import MODEL, RECIPES
from model_store.errors import Permanent
from model_store.installation import ROOT

Asked = Literal["command", "registry"]
Ending = Literal["promoted", "blocked", "rolled_back"]

# What scenarios were called before.
FORMER_NAMES = {"credit": "risk"}


@dataclass(frozen=True, slots=True)
class Act:
    """One release. `asked`: `./slipway release`, or the alias `candidate` set in MLflow and nothing else."""

    version: int
    asked: Asked
    ending: Ending
    story: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story. `faults` is what `SLIPWAY_FAULTS` says for pods (see `serving.pod.faults`).

    `training` is the module that registers the versions, run as a process. `spec`: the release spec that only
    this demo's home gets, None if it is one of the repository's. `rate`: requests a second.
    `longest_to_zero_seconds`: how long the faulty version may have traffic after its first failed answer.
    """

    name: str
    model: str
    acts: tuple[Act, ...]
    faults: str
    training: str = f"{__package__}.models"
    spec: Path | None = None
    rate: float = 120.0
    # 20 % errors at 5 % of 120 requests a second are about one error a second to judge by.
    longest_to_zero_seconds: float = 20.0


def _acts(first: str, second: str, third: str, fourth: str) -> tuple[Act, ...]:
    return (
        Act(1, "command", "promoted", first),
        Act(2, "registry", "promoted", second),
        Act(3, "command", "blocked", third),
        Act(4, "command", "rolled_back", fourth),
    )


RISK = Scenario(
    "risk", MODEL, _acts(*(RECIPES[version].story for version in (1, 2, 3, 4))), f"{MODEL}@4:error_rate=0.2"
)

SERVICE = Scenario(
    "service",
    "mail_triage",
    _acts(
        "MiniLM, its head trained on the first 200 mails",
        "MiniLM, its head trained on all 1,600 mails",
        "v2, every operator put into 8 bits by hand to save space",
        "sound, trained on other mails, but its pods fail one time in two",
    ),
    faults="mail_triage@4:error_rate=0.5",
    training=f"{__package__}.service.models",
    spec=ROOT / "examples" / "service" / "mail_triage.yaml",
    # A mail costs a core 5 to 10 ms, and the cores also train, quantize and judge.
    rate=12.0,
    # A fifth of 12 requests a second, and half of those fail: again about one error a second.
    longest_to_zero_seconds=30.0,
)

RECSYS = Scenario(
    "recsys",
    "film_ranking",
    _acts(
        "DeepFM on the first 6,000 ratings",
        "DeepFM on all 80,000 ratings",
        "trained with a catalogue whose films are all one number further",
        "sound, trained as v2 was, but its pods fail one request in five",
    ),
    faults="film_ranking@4:error_rate=0.2",
    training=f"{__package__}.recsys.models",
    spec=ROOT / "examples" / "recsys" / "film_ranking.yaml",
    rate=100.0,
)

SCENARIOS = {scenario.name: scenario for scenario in (RISK, SERVICE, RECSYS)}


def scenario(name: str) -> Scenario:
    """Raises `Permanent` listing what exists."""
    known = FORMER_NAMES.get(name, name)
    if known not in SCENARIOS:
        raise Permanent(f"there is no scenario {name!r}", remedy=f"Scenarios: {', '.join(SCENARIOS)}.")
    return SCENARIOS[known]
