"""One installation in memory: real store, journal, lock and rollouts; pods, routes, MLflow only remember."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from model_store.bundle import publishing as bundles
from model_store.bundle.publishing import open_signature
from model_store.gates.choose import NothingPassed, shortfalls
from model_store.records import read_report, tensor_records
from model_store.registry import Evidence, EvidenceRun, ModelVersion, RegistryUnavailable, UnknownVersion
from model_store.release_spec import ReleaseSpec, load
from model_store.stages.base import (
    BuildContext,
    Chosen,
    Compiled,
    Exported,
    Gated,
    Published,
    Quantized,
    Variant,
)
from model_store.stages.gate import champion_bundle, signature_checks
from model_store.storage.store import Store
from model_store.types import Bundle, Check, GateReport, ModelRef, TensorSpec, Toolchain
from serving import composition
from serving.control.controller import rollout_jobs
from serving.control.controller.acts import Acts
from serving.control.controller.holds import Holds
from serving.control.release_deployment import deployment_of
from serving.control.releases import Release, Releases, Request, to_row
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.decide import Observation
from serving.control.rollout.journal import KeptJournal, StaleState
from serving.control.rollout.lock import ReleaseLock
from serving.control.rollout.plan import RolloutState
from serving.control.rollout.record import Record
from serving.control.traffic import RolloutPhase, RolloutProgress
from serving.control.wiring import Services, now
from serving.gateway.router.base import StaleRoute
from serving.gateway.router.history import LedgerHistory
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.home import Home, Ports
from serving.ledger import rows
from serving.ledger.base import Ledger
from serving.ledger.memory import MemoryLedger
from serving.platforms.base import DeploymentSpec
from serving.platforms.memory import MemoryPlatform
from serving.types import ALL_STABLE, Counts, Deployment, DeploymentRef, Finding, Outcome, Slot, Verdict
from tests.bundles import mlp

MODEL = "fraud"
SPEC = Path(__file__).parent / "releases" / "fraud.yaml"
INPUT = TensorSpec("input", "FP32", (-1, 4))
OUTPUTS = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2)))


class Registry:
    """MLflow, as far as releases ask it. `down`: how many more calls find it down; `gone`: calls that do."""

    url = "http://mlflow"

    def __init__(self) -> None:
        self.versions_known = {1, 2, 3, 4}
        self.aliases_by_model: dict[str, dict[str, int]] = {MODEL: {"candidate": 1}}
        self.tags: dict[int, dict[str, str]] = {}
        self.evidence: dict[str, Evidence] = {}
        self.notes: dict[int, str] = {}
        self.down = 0
        self.gone: set[str] = set()
        self.calls: list[str] = []

    def resolve(self, name: str, version: str) -> ModelRef:
        self._called("resolve")
        number = int(version) if version.isdecimal() else self.aliases_by_model[name].get(version, 0)
        if number not in self.versions_known:
            raise UnknownVersion(f"{name} has no {version}", remedy=f"newest: {self.versions_known}")
        return ModelRef(name, number)

    def describe(self, ref: ModelRef) -> ModelVersion:
        self._called("describe")
        at = datetime(2026, 11, 1, tzinfo=UTC)
        return ModelVersion(ref, "run", "models:/m-1", "", at, dict(self.tags.get(ref.version, {})), ())

    def versions(self, name: str) -> list[ModelVersion]:
        return [self.describe(ModelRef(name, number)) for number in sorted(self.versions_known, reverse=True)]

    def aliases(self, name: str) -> dict[str, int]:
        self._called("aliases")
        if name not in self.aliases_by_model:
            raise UnknownVersion(f"there is no model {name}", remedy=f"known: {MODEL}")
        return dict(self.aliases_by_model[name])

    def authors(self, ref: ModelRef) -> tuple[str, ...]:
        self._called("authors")
        return ("linus",)

    def parameters(self, ref: ModelRef) -> dict[str, str] | None:
        self._called("parameters")
        return {"depth": str(ref.version), "seed": "7"}

    def set_alias(self, ref: ModelRef, alias: str) -> None:
        self._called("set_alias")
        self._require(ref)
        self.aliases_by_model[ref.name][alias] = ref.version

    def delete_alias(self, name: str, alias: str) -> None:
        if alias in self.aliases(name):
            self._called("delete_alias")
            del self.aliases_by_model[name][alias]

    def set_tags(self, ref: ModelRef, tags: Mapping[str, str]) -> None:
        self._called("set_tags")
        self._require(ref)
        self.tags.setdefault(ref.version, {}).update(tags)

    def note(self, ref: ModelRef, text: str) -> None:
        self._called("note")
        self.notes.setdefault(ref.version, text)

    def log_evidence(self, ref: ModelRef, found: Evidence) -> EvidenceRun:
        self._called("log_evidence")
        self._require(ref)
        self.evidence[found.release_id] = found
        return EvidenceRun("run-1", f"{self.url}/run-1")

    def version_url(self, ref: ModelRef) -> str:
        return f"{self.url}/{ref.name}/{ref.version}"

    def _require(self, ref: ModelRef) -> None:
        if ref.version not in self.versions_known:
            raise UnknownVersion(f"{ref} is gone", remedy=f"newest: {self.versions_known}")

    @property
    def champion(self) -> int | None:
        return self.aliases_by_model[MODEL].get("champion")

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.down > 0 or what in self.gone:
            self.down = max(0, self.down - 1)
            raise RegistryUnavailable("MLflow does not answer", remedy="start it", delay_seconds=0)


class WatchedJournal(KeptJournal):
    """A journal whose controller looked just now. `verdicts` by step (else PASS); holds are long over."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.verdicts: dict[int, Outcome] = {}

    def latest_record(self, release: str) -> Record | None:
        state = self.load(release)
        return self._record(state, self.verdicts.get(state.step, Outcome.PASS))

    def records(self, release: str) -> Iterable[Record]:  # type: ignore[override]
        return [record for record in [self.latest_record(release)] if record]

    def _record(self, state: RolloutState, outcome: Outcome) -> Record:
        finding = Finding("error rate", outcome, f"candidate is {outcome.name.lower()}")
        return Record(
            at=now(),
            monotonic=1.0,
            place=state.place,
            share=state.split.candidate / 100,
            settled=True,
            retries_on_stable=True,
            step_seconds=1e6,
            stable=Counts(1000, 1, 0, 10.0),
            candidate=Counts(100, 0, 0, 10.0),
            raw={},
            verdict=Verdict.of([finding], at=now()),
        )


class ActsAtOnce(Acts):
    """What the controller does on threads of its own is done when it answers here."""

    def __init__(self, world: World) -> None:
        super().__init__(
            world._rollouts,
            lambda: world.services,
            lambda home, route: composition.candidate_of(home, route),
            linger_seconds=0,
        )
        self._world = world

    def start(self, release_id: str, deployment_id: str) -> RolloutState:
        """The rollout of pods that are ready, as far as weight 0."""
        services = self._world.services
        release = services.releases.load(release_id)
        deployment = deployment_of(services, release.model, deployment_id)
        return rollout_jobs.start(services, self._world._rollouts, release, deployment)

    def begin(self, release_id: str, bundle_id: str) -> RolloutProgress:
        releases = self._world.releases
        if not (release := releases.load(release_id)).bundles:
            # As its run wrote down when it published.
            releases.built(release_id, bundle_id, at=release.request.at)
        found = super().begin(release_id, bundle_id)
        self.starts.join(2)
        if found.phase.goes_on:
            found = self.starts.progress(release_id)
        # It wakes the task, which asks again and is told why.
        return super().begin(release_id, bundle_id) if found.phase is RolloutPhase.FAILED else found

    def progress(self, release_ids: Iterable[str]) -> dict[str, RolloutProgress]:
        """The controller looks whenever somebody asks."""
        for release_id in release_ids:
            self._world.tick(release_id)
        return super().progress(list(release_ids))

    def end(self, release_id: str, *, reason: str) -> RolloutProgress:
        found = super().end(release_id, reason=reason)
        self._world.settle()
        return found


@dataclass
class World:
    """The services, and what tests change about them. `built` counts the stages that ran; `inputs`: what
    versions take that take something else than the others.
    """

    root: Path
    registry: Registry = field(default_factory=Registry)
    platform: MemoryPlatform = field(default_factory=MemoryPlatform)
    built: list[str] = field(default_factory=list)
    passing: set[str] = field(default_factory=lambda: {"fp32", "fp16", "int8"})
    # The digest of the rows that gates keep of what they judged; empty: none.
    sample: str = ""
    inputs: dict[int, TensorSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = Home(self.root, Ports())
        self.store = Store(self.home.store)
        self.rows: Ledger = MemoryLedger()
        self.journal = WatchedJournal(self.rows)
        self.router = LedgerRouter(self.rows, MemoryRouter())
        self.lock = ReleaseLock(self.rows)
        self._rollouts = Rollouts(self.journal, self.router, now=now)
        self.rollouts = ActsAtOnce(self)
        self.rollouts.read = self.tick  # type: ignore[method-assign]

    @property
    def releases(self) -> Releases:
        return Releases(self.rows)

    def keep(self, release: Release) -> None:
        """As if it had been asked for so."""
        known = self.rows.get(rows.ReleaseRecord, release.id)
        self.rows.save(to_row(release, over=known))

    def settle(self) -> None:
        """What the controller clears away after rollouts that are over."""
        states = self.journal.releases(MODEL)
        self.rollouts.settlement.latest = {MODEL: states[-1]} if states else {}
        self.rollouts.settlement.look()

    def tick(self, release_id: str) -> RolloutState:
        """What the controller does in one look at a release. Here it looks whenever somebody asks."""
        state = self.journal.load(release_id)
        if state.phase.is_final:
            return state
        holds = Holds(self.services, now=now, monotonic=time.monotonic)
        holds.enforce(state)
        state, record = self.journal.load(release_id), self.journal.latest_record(release_id)
        assert record
        with suppress(StaleState, StaleRoute):
            seen = Observation(record.verdict, record.step_seconds)
            self._rollouts.advance(state, self.router.read(state.service), seen)
        self.router.settle()
        return self.journal.load(release_id)

    def stages(self) -> dict[str, Any]:
        """Stand-ins for `model_store.build`'s stages: quick, and counted."""
        return {
            "export_stage": self._export,
            "check_data_stage": self._check_data,
            "quantize_stage": self._quantize,
            "compile_stage": self._compile,
            "gate_stage": self._gate,
            "choose_stage": self._choose,
            "publish_stage": self._publish,
        }

    def _export(self, ctx: BuildContext) -> Any:
        self.built.append("export")
        self.registry.describe(ctx.ref)
        inputs = tensor_records([self.inputs.get(ctx.ref.version, INPUT)])
        return {
            "artifact": {"format": "onnx", "size_bytes": 1000},
            "inputs": inputs,
            "outputs": tensor_records(OUTPUTS),
            "notes": [],
        }

    def _check_data(self, ctx: BuildContext, exported: Exported) -> Any:
        self.built.append("check_data")
        return {"checks": [], "docs": ""}

    def _quantize(self, ctx: BuildContext, exported: Exported, variant: Variant) -> Any:
        self.built.append("quantize")
        return {"variant": variant, "artifact": {"size_bytes": 500}, "reason": "", "how": {}}

    def _compile(self, ctx: BuildContext, quantized: Quantized, target: str) -> Any:
        self.built.append("compile")
        return {
            "variant": quantized["variant"],
            "target": target,
            "artifact": {"size_bytes": 500},
            "reason": "",
        }

    def _gate(
        self, ctx: BuildContext, exported: Exported, quantized: Quantized, compiled: list[Compiled]
    ) -> Any:
        self.built.append("gate")
        passed = quantized["variant"]["precision"] in self.passing
        checks: tuple[Check, ...] = (Check("accuracy", -0.02, -0.01, passed=passed),)
        if champion := champion_bundle(ctx):
            checks += signature_checks(ctx, exported, open_signature(ctx.store, champion))
        report = {"dataset_digest": "sha256:0", "checks": [asdict(check) for check in checks]}
        said = {"variant": quantized["variant"], "report": report, "profile": None, "reasons": []}
        kept = {"served": {"digest": "sha256:0"}, "sample": {"blob": self.sample}} if self.sample else {}
        return said | kept

    def _choose(self, ctx: BuildContext, gated: list[Gated]) -> Chosen:
        for one in gated:
            if all(check["passed"] for check in one["report"]["checks"]):
                return {"precision": one["variant"]["precision"], "reason": "first that passed"}
        raise NothingPassed(
            [], [f"{one['variant']['precision']}: {shortfalls(read_report(one['report']))}" for one in gated]
        )

    def _publish(
        self, ctx: BuildContext, exported: Exported, gated: list[Gated], chosen: Chosen
    ) -> Published:
        found = self.bundle(ctx.ref.version)
        return {"bundle": found.id, "precision": "fp32", "reason": "", "size_bytes": 10}

    @property
    def services(self) -> Services:
        ports: Any = self
        return Services(
            home=self.home,
            releases=self.releases,
            store=self.store,
            registry=ports.registry,
            router=self.router,
            history=LedgerHistory(self.rows),
            platform=self.platform,
            journal=self.journal,
            lock=self.lock,
            rollouts=self.rollouts,
            rows=self.rows,
        )

    @property
    def spec(self) -> ReleaseSpec:
        return load(SPEC)

    def release(self, version: int, *, second: int = 0, run_id: str = "", dry_run: bool = False) -> Release:
        """A request for `version`, made `second` seconds after the first one."""
        at = datetime(2026, 11, 21, 20, 0, second, tzinfo=UTC)
        request = Request(
            f"release_{MODEL}", run_id or f"run-{version}-{second}", at, str(version), "", "ada", dry_run
        )
        return self.releases.open(
            request, self.spec, lambda wanted: self.registry.resolve(MODEL, wanted).version
        )

    def bundle(self, version: int) -> Bundle:
        """A real bundle of a tiny network, as `publish_stage` leaves it."""
        return bundles.publish(self.store, self._contents(version))

    def bundle_of(self, release: Release) -> Bundle:
        """What its run built, and wrote down as the release's."""
        bundle = self.bundle(release.version)
        self.releases.built(release.id, bundle.id, at=release.request.at)
        return bundle

    def serve(self, version: int) -> None:
        """Let `version` have all traffic, as after a finished release."""
        ref = self.start_pods(version)
        deployed = Deployment(ref, self.platform.status(ref).endpoints)
        route = self.router.read(MODEL) if MODEL in self.router.services() else None
        self.router.write(
            MODEL, ALL_STABLE, stable=deployed, candidate=None, at=route.revision if route else 0
        )
        self.registry.aliases_by_model[MODEL]["champion"] = version

    def start_pods(self, version: int) -> DeploymentRef:
        """Of a version, where no traffic is."""
        bundle = self.bundle(version)
        ref = DeploymentRef(MODEL, self.slot, bundle.id, version)
        self.platform.apply(ref, DeploymentSpec(bundle, replicas=1))
        return ref

    @property
    def slot(self) -> Slot:
        if MODEL not in self.router.services():
            return Slot.BLUE
        stable = self.router.read(MODEL).stable
        return stable.slot.other if stable else Slot.BLUE

    def _contents(self, version: int) -> bundles.BundleContents:
        served = self.store.put(
            mlp(seed=version).SerializeToString(),
            format="onnx",
            precision="fp32",
            parent_digest=None,
            toolchain=Toolchain("onnxruntime", "1"),
        )
        return bundles.BundleContents(
            model=ModelRef(MODEL, version),
            served=served,
            inputs=(self.inputs.get(version, INPUT),),
            outputs=OUTPUTS,
            serving=load(SPEC).serving.model_dump(mode="json"),
            session_config={},
            warmup={self.inputs.get(version, INPUT).name: np.zeros((4, 4), "f")},
            report=GateReport("sha256:0", (Check("accuracy", 0.0, -0.01, passed=True),)),
        )
