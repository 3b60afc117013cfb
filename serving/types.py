"""The nouns after the bundle. Plain frozen values: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

# What the pod says of a request that its model refuses (`model_store.engines.errors`).
REFUSED_HEADER = "x-slipway-refused"


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
class DeploymentId:
    """A deployment's name: `<service>-<slot>-<bundle_id>`, as journals, tasks and people pass it on."""

    service: str
    slot: Slot
    bundle_id: str

    def __str__(self) -> str:
        return f"{self.service}-{self.slot}-{self.bundle_id}"

    @classmethod
    def parse(cls, text: str) -> DeploymentId:
        """Raises ValueError for what is no such name. Only a service's own name may hold dashes."""
        try:
            service, slot, bundle_id = text.rsplit("-", 2)
            return cls(service, Slot(slot), bundle_id)
        except ValueError:
            raise ValueError(f"{text!r} is not a deployment: <service>-<blue|green>-<bundle>") from None


@dataclass(frozen=True, slots=True)
class DeploymentRef:
    """What runs: the bundle of a version, in a service's slot. Where it runs is for the platform to say."""

    service: str
    slot: Slot
    bundle_id: str
    version: int

    @property
    def id(self) -> str:
        return str(DeploymentId(self.service, self.slot, self.bundle_id))


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs, and the addresses at which the gateway was last told to find it. They may change."""

    ref: DeploymentRef
    endpoints: tuple[Endpoint, ...]

    @property
    def id(self) -> str:
        return self.ref.id

    @property
    def service(self) -> str:
        return self.ref.service

    @property
    def slot(self) -> Slot:
        return self.ref.slot

    @property
    def bundle_id(self) -> str:
        return self.ref.bundle_id

    @property
    def version(self) -> int:
        return self.ref.version

    def to_json(self) -> dict[str, Any]:
        """Flat, as routes and pods have been written down since the first release of Slipway."""
        return {"id": self.id, **asdict(self.ref), "endpoints": [asdict(each) for each in self.endpoints]}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Deployment:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what is no such record.

        What a newer Slipway added is left out: a route that is read without it can still be taken back.
        """
        ref = DeploymentRef(saved["service"], Slot(saved["slot"]), saved["bundle_id"], saved["version"])
        return cls(ref, tuple(Endpoint(each["host"], each["port"]) for each in saved["endpoints"]))


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

    def placed_as_in(self, before: Route) -> Route:
        """The same decision, with deployments that `before` has too at the endpoints that it has."""
        known = {arm.ref: arm for arm in (before.stable, before.candidate) if arm}
        stable, candidate = (arm and known.get(arm.ref, arm) for arm in (self.stable, self.candidate))
        return replace(self, stable=stable, candidate=candidate)

    def moved(self, deployment: Deployment) -> Route:
        """The same route, with the deployment where it says that it is."""
        arms = (self.stable, self.candidate)
        stable, candidate = (deployment if arm and arm.ref == deployment.ref else arm for arm in arms)
        return replace(self, stable=stable, candidate=candidate)

    def to_json(self) -> dict[str, Any]:
        """Plain values. What is not set is left out of the settings, and API keys stand beside them: who was
        before they could be set takes no settings that it does not know."""
        arms = {"stable": self.stable, "candidate": self.candidate}
        record: dict[str, Any] = {
            **asdict(self),
            **{name: arm.to_json() if arm else None for name, arm in arms.items()},
        }
        api_keys = record["settings"].pop("api_keys")
        settings = {name: value for name, value in record["settings"].items() if value is not None}
        return {**record, "settings": settings, "api_keys": api_keys}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Route:
        """The inverse. Raises ValueError, KeyError or TypeError for what is no such record.

        What a newer Slipway added is left out: a route that is read without it can still be taken back.
        """
        stable, candidate = (
            Deployment.from_json(saved[arm]) if saved[arm] else None for arm in ("stable", "candidate")
        )
        return cls(
            service=saved["service"],
            revision=saved["revision"],
            split=TrafficSplit(**saved["split"]),
            stable=stable,
            candidate=candidate,
            settings=_settings({**saved["settings"], "api_keys": saved.get("api_keys", False)}),
        )


def _settings(saved: Mapping[str, Any]) -> RouteSettings:
    limits = {
        name: RateLimit(**saved[name])
        for name in ("rate_limit", "client_rate_limit")
        if saved.get(name) is not None
    }
    known = {each.name for each in fields(RouteSettings)}
    return RouteSettings(**{name: value for name, value in {**saved, **limits}.items() if name in known})


@dataclass(frozen=True, slots=True)
class Counts:
    """What one arm did in a window: completed requests, and what became of them.

    `errors` counts every attempt that failed on this arm, also those Envoy then retried elsewhere.
    `refused` were well-formed, and the model itself refused them; `malformed` got any other 4xx. The
    `uninformative` of these were too large, too late or too many, or asked for another version (404): no
    evidence. `slow` may be any of these. `window_seconds` is the time the counts cover.
    """

    requests: int
    errors: int
    slow: int
    window_seconds: float
    refused: int = 0
    malformed: int = 0
    uninformative: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            self.window_seconds + other.window_seconds,
            self.refused + other.refused,
            self.malformed + other.malformed,
            self.uninformative + other.uninformative,
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
            self.uninformative - other.uninformative,
        )

    @property
    def rejected(self) -> int:
        """4xx, whoever's doing."""
        return self.refused + self.malformed

    @property
    def judged(self) -> int:
        """4xx that two versions of equal pods would give alike, however the traffic is split."""
        return self.rejected - self.uninformative

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
