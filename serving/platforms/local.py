"""Pods as supervised processes on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import httpx

from model_store.errors import Retryable
from model_store.locks import locked
from serving.home import Home
from serving.platforms import pods, redis
from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from serving.platforms.pods import PodRecord
from serving.platforms.warmup import FailedWarmup, warm_up
from serving.supervision.ports import LOCALHOST, free_ports
from serving.supervision.supervisor import ENDED, RUNNING, STARTING, ProgramState, Supervisor
from serving.types import Deployment, DeploymentRef, Endpoint, Slot

log = logging.getLogger("slipway.platform")


class LocalPlatform:
    """`Platform` under the supervisord of `home`.

    Every step can be repeated: an apply or retire that was cut short is finished by the next one. All but
    `deployments` raise `Retryable` while the stack is not running.
    """

    def __init__(self, home: Home, environ: Mapping[str, str] = os.environ) -> None:
        self._home = home
        self._supervisor = Supervisor(home)
        self._environ = environ
        self._faults = environ.get("SLIPWAY_FAULTS", "")

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        with self._locked(ref.service):
            record = pods.read_record(self._home, ref.service, ref.slot)
            if record is None or not self._is_wanted(record, ref, want):
                self._end(ref.service, ref.slot)
                record = self._write_down(ref, want)
            self._start(record)

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        """Pods come back on their ports, so those that were ready once stay endpoints while they restart.

        Sends the warm rows to pods that run since they were last warm.
        """
        record = pods.read_record(self._home, ref.service, ref.slot)
        if record is None or record.deployment.ref != ref:
            return DeploymentStatus(
                DeploymentPhase.NOT_FOUND, f"nothing was started as {ref.id}, or it ended"
            )
        processes = self._processes(ref.service, ref.slot)
        if not processes:
            return DeploymentStatus(DeploymentPhase.NOT_FOUND, f"supervisord has no pods of {ref.id}")
        endpoints = record.deployment.endpoints if record.warm_since else ()
        if fatal := next((process for process in processes if process.state == "FATAL"), None):
            return self._does_not_start(fatal, endpoints)
        if missing := _missing(record, processes):
            return DeploymentStatus(DeploymentPhase.IN_PROGRESS, missing, endpoints)
        return self._warmed(record, processes)

    def retire(self, ref: DeploymentRef) -> None:
        with self._locked(ref.service):
            record = pods.read_record(self._home, ref.service, ref.slot)
            if record and record.deployment.ref == ref:
                self._end(ref.service, ref.slot)
                self._forget_answers(record)

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        of_all = (record.deployment.ref for record in pods.records(self._home))
        return [ref for ref in of_all if service in (None, ref.service)]

    def _locked(self, service: str) -> AbstractContextManager[None]:
        return locked(self._home.pods / ".locks" / service)

    def _warmed(self, record: PodRecord, processes: list[ProgramState]) -> DeploymentStatus:
        """Ready, once the pods that now run have answered the bundle's warm rows."""
        endpoints, since = record.deployment.endpoints, max(process.started_at for process in processes)
        if record.warm_since < since:
            try:
                warm_up(record.bundle, record.deployment)
            except FailedWarmup as problem:
                return DeploymentStatus(DeploymentPhase.FAILED, problem.problem, remedy=problem.remedy)
            except Retryable as problem:
                return DeploymentStatus(DeploymentPhase.IN_PROGRESS, problem.problem, remedy=problem.remedy)
            with self._locked(record.deployment.service):
                if pods.read_record(self._home, record.deployment.service, record.deployment.slot) == record:
                    pods.write_record(self._home, replace(record, warm_since=since))
        return DeploymentStatus(DeploymentPhase.READY, endpoints=endpoints)

    def _is_wanted(self, record: PodRecord, ref: DeploymentRef, want: DeploymentSpec) -> bool:
        wanted = (ref, want.replicas, self._faults)
        return (record.deployment.ref, record.replicas, record.faults) == wanted

    def _write_down(self, ref: DeploymentRef, want: DeploymentSpec) -> PodRecord:
        """Choose ports and keep them: routes name them, so pods come back on the same ones."""
        with locked(self._home.pods / ".locks" / ".ports"):
            ports = free_ports(pods.port_candidates(self._home), want.replicas)
            pods.write_last_port(self._home, ports[-1])
            endpoints = tuple(Endpoint(LOCALHOST, port) for port in ports)
            record = PodRecord(Deployment(ref, endpoints), want.bundle.path, self._faults)
            pods.write_record(self._home, record)
        return record

    def _start(self, record: PodRecord) -> None:
        if pods.requirements_of(record.bundle).shared_cache:
            redis.ensure(self._home, self._environ)
        pods.write_program(self._home, record)
        self._supervisor.add_group(record.group)
        for process in self._processes(record.deployment.service, record.deployment.slot):
            if process.state in ENDED:
                self._supervisor.start(process.full_name)

    def _end(self, service: str, slot: Slot) -> None:
        """Drain and forget, the record last: until then a repetition finds what is still to be done."""
        group = pods.group_of(service, slot)
        self._supervisor.remove_group(group)
        pods.remove_program(self._home, group)
        pods.remove_record(self._home, service, slot)

    def _forget_answers(self, record: PodRecord) -> None:
        """Of a bundle that left; its versions' keys are its own, so this only frees memory early."""
        if not pods.requirements_of(record.bundle).shared_cache:
            return
        from serving.pod.cache.invalidate import invalidate

        try:
            url = redis.url_of(self._home, self._environ)
            invalidate(url, record.deployment.service, record.deployment.bundle_id)
        except Retryable as problem:
            log.warning("its answers stay in Redis until they expire: %s", problem)

    def _processes(self, service: str, slot: Slot) -> list[ProgramState]:
        group = pods.group_of(service, slot)
        return [process for process in self._supervisor.programs() if process.group == group]

    def _does_not_start(self, process: ProgramState, endpoints: tuple[Endpoint, ...]) -> DeploymentStatus:
        """It ended at start again and again: its last words say why."""
        log = self._home.logs / f"{process.name}.log"
        words = log.read_text(errors="replace").strip().splitlines()[-5:] if log.exists() else []
        return DeploymentStatus(
            DeploymentPhase.FAILED,
            "\n  | ".join([f"pod {process.name} ends at start", *words]),
            endpoints,
            remedy=f"Read {log}; the bundle can be started by hand with python -m serving.pod.",
        )


def _missing(record: PodRecord, processes: list[ProgramState]) -> str:
    """Which pods do not run or do not answer, in words; "" if all do.

    An answer alone might be somebody else's, who took the port while the pod was down.
    """
    if down := [process for process in processes if process.state not in (STARTING, RUNNING)]:
        return ", ".join(f"pod {process.name} is {process.state.lower()}" for process in down)
    with httpx.Client(timeout=2, trust_env=False) as client:
        silent = [each for each in record.deployment.endpoints if not _answers(client, each)]
    if not silent:
        return ""
    ready = record.replicas - len(silent)
    at = ", ".join(map(str, silent))
    return f"{ready} of {record.replicas} pods are ready; not yet: {at}"


def _answers(client: httpx.Client, endpoint: Endpoint) -> bool:
    try:
        return client.get(f"http://{endpoint}/v2/health/ready").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
