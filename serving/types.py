"""The nouns after the bundle. Plain frozen values: no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum


class Slot(StrEnum):
    """Two places a service's versions can stand; one serves while the other is made ready."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Slot:
        return Slot.GREEN if self is Slot.BLUE else Slot.BLUE


class Arm(StrEnum):
    """The two sides a verdict compares."""

    STABLE = "stable"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One pod's address on the data path."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A bundle running in a slot. `id` is `<service>-<slot>-<bundle_id>`."""

    id: str
    service: str
    bundle_id: str
    version: int
    slot: Slot
    endpoints: tuple[Endpoint, ...]


def bundle_in(deployment_id: str) -> str:
    """The id of the bundle that a deployment's id names."""
    return deployment_id.rpartition("-")[2]


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Percent of requests each arm gets; `mirrored` copies stable's requests to the candidate.

    Weights are percentages with up to two decimals and sum to 100.
    """

    stable: float
    candidate: float
    mirrored: bool = False

    def __post_init__(self) -> None:
        if min(self.stable, self.candidate) < 0 or abs(self.stable + self.candidate - 100) > 1e-6:
            raise ValueError(f"weights must be >= 0 and sum to 100, got {self.stable} + {self.candidate}")


ALL_STABLE = TrafficSplit(stable=100, candidate=0)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: `per_second` tokens flow in, `burst` fit."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """How the gateway treats a service's requests.

    `timeout_ms` is for one attempt, so that a hanging candidate leaves time to ask stable.
    `idempotent` False: never send a request twice. An answer later than `latency_objective_ms` is slow.
    `rate_limit` is for all requests together, `client_rate_limit` for those of each client. `api_keys`: only
    clients with a key are let in.
    """

    timeout_ms: int = 1000
    idempotent: bool = True
    latency_objective_ms: float = 500.0
    rate_limit: RateLimit | None = None
    client_rate_limit: RateLimit | None = None
    api_keys: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """What Envoy is told about one service. `revision` grows by one with every write.

    `stable` is None only before the first release; `candidate` only while none is deployed.
    """

    service: str
    revision: int
    split: TrafficSplit
    stable: Deployment | None
    candidate: Deployment | None
    settings: RouteSettings = RouteSettings()


@dataclass(frozen=True, slots=True)
class Counts:
    """What one arm did in a window: completed requests, and what became of them.

    `errors` counts every attempt that failed on this arm, also those Envoy then retried elsewhere.
    `refused` were well-formed, and the model itself refused them; `malformed` got any other 4xx, `limited` of
    them because they were too large, too late or too many, or asked for another version (404): no evidence.
    `slow` may be any of these. `window_seconds` is the time the counts cover.
    """

    requests: int
    errors: int
    slow: int
    window_seconds: float
    refused: int = 0
    malformed: int = 0
    limited: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            self.window_seconds + other.window_seconds,
            self.refused + other.refused,
            self.malformed + other.malformed,
            self.limited + other.limited,
        )

    def __sub__(self, other: Counts) -> Counts:
        """What happened between two cumulative counts."""
        return Counts(
            self.requests - other.requests,
            self.errors - other.errors,
            self.slow - other.slow,
            self.window_seconds - other.window_seconds,
            self.refused - other.refused,
            self.malformed - other.malformed,
            self.limited - other.limited,
        )

    @property
    def rejected(self) -> int:
        """4xx, whoever's doing."""
        return self.refused + self.malformed

    @property
    def judged(self) -> int:
        """4xx that two versions of equal pods would give alike, however the traffic is split."""
        return self.rejected - self.limited

    @property
    def answered(self) -> int:
        """2xx: what callers asked for."""
        return max(self.requests - self.errors - self.rejected, 0)


NO_COUNTS = Counts(0, 0, 0, 0.0)


class Outcome(IntEnum):
    """Ordered by severity: the worst finding decides. No data is INCONCLUSIVE, never PASS."""

    PASS = 0
    INCONCLUSIVE = 1
    ERROR = 2
    FAIL = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's outcome, in plain words, with the numbers it used and where its formula comes from."""

    rule: str
    outcome: Outcome
    reason: str
    numbers: tuple[tuple[str, float], ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst outcome among the findings."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    at: datetime

    @classmethod
    def of(cls, findings: Iterable[Finding], *, at: datetime) -> Verdict:
        """Combine findings. No findings at all is INCONCLUSIVE."""
        found = tuple(findings)
        return cls(max((f.outcome for f in found), default=Outcome.INCONCLUSIVE), found, at)
