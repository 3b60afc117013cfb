"""The documented test switch: makes a pod fail on purpose, for demos and tests of what then happens.

`SLIPWAY_FAULTS="credit_risk@4:error_rate=0.2;fraud@2:delay_ms=300,error_rate=1"` makes version 4 of
credit_risk answer 500 to one infer request in five and version 2 of fraud answer nothing but errors, late.
Health and metadata never fail, and neither do the warm rows that are asked before any traffic
(`serving.platforms.warmup`): the switch is about what users meet.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from model_store.errors import Permanent

WARMUP_HEADER = b"x-slipway-warmup"


@dataclass(slots=True)
class Faults:
    """What one model version does wrong. `error_rate` is a share, `delay_seconds` comes before the model."""

    chance: random.Random
    error_rate: float = 0.0
    delay_seconds: float = 0.0

    def strikes(self) -> bool:
        """Whether this request fails."""
        return self.chance.random() < self.error_rate


def faults_for(name: str, version: str, switch: str, chance: random.Random) -> Faults | None:
    """The faults `switch` names for this version, or None. Raises `Permanent` on a switch it cannot read."""
    for clause in filter(None, (part.strip() for part in switch.split(";"))):
        target, _, wishes = clause.partition(":")
        if target == f"{name}@{version}":
            return _faults(clause, wishes, chance)
    return None


def _faults(clause: str, wishes: str, chance: random.Random) -> Faults:
    faults = Faults(chance)
    for wish in wishes.split(","):
        key, _, value = wish.strip().partition("=")
        try:
            if key == "error_rate":
                faults.error_rate = float(value)
            elif key == "delay_ms":
                faults.delay_seconds = float(value) / 1000
            else:
                raise ValueError(f"unknown fault {key!r}, known: delay_ms, error_rate")
        except ValueError as error:
            raise Permanent(
                f"SLIPWAY_FAULTS: {clause!r}: {error}",
                remedy="write name@version:error_rate=0.2,delay_ms=300",
            ) from error
    return faults
