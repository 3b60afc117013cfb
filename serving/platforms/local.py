"""Pods as supervised processes on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import httpx

from model_store.errors import Permanent, Retryable
from model_store.types import Bundle
from serving.home import Home
from serving.local_stack.locks import locked
from serving.local_stack.ports import LOCALHOST, free_ports
from serving.local_stack.supervisor import ENDED, RUNNING, STARTING, ProgramState, Supervisor
from serving.platforms import pods, redis
from serving.platforms.pods import PodRecord
from serving.platforms.warmup import warm_up
from serving.types import Deployment, DeploymentRef, Endpoint, Slot

log = logging.getLogger("slipway.target")


class PodDoesNotStart(Permanent):
    """The pod ended at start again and again; its last words are in the message."""


class LocalTarget:
    """`ServingTarget` under the supervisord of `home`.

    Every step can be repeated: a deploy or retire that was cut short is finished by the next one. Calls
    raise `Retryable` while the stack is not running.
    """

    def __init__(self, home: Home, environ: Mapping[str, str] = os.environ) -> None:
        self._home = home
        self._supervisor = Supervisor(home)
        self._environ = environ
        self._faults = environ.get("SLIPWAY_FAULTS", "")

    def deploy(self, bundle: Bundle, slot: Slot, *, replicas: int) -> Deployment:
        service = bundle.model.name
        with locked(self._home.pods / ".locks" / service):
            record = pods.read_record(self._home, service, slot)
            if record is None or not self._is_wanted(record, bundle, replicas):
                self._end(service, slot)
                record = self._write_down(bundle, slot, replicas)
            self._start(record)
            return record.deployment

    def is_ready(self, deployment: Deployment) -> bool:
        """Whether the pods answer, the bundle's own warm rows too.

        Raises `PodDoesNotStart` when supervisord has given up on a pod, and `FailedWarmup`.
        """
        record = pods.read_record(self._home, deployment.service, deployment.slot)
        if record is None or record.deployment != deployment:
            return False
        processes = self._processes(deployment.service, deployment.slot)
        for process in processes:
            if process.state == "FATAL":
                raise self._does_not_start(process)
        # An answer alone might be somebody else's, who took the port while the pod was down.
        if not processes or any(process.state not in (STARTING, RUNNING) for process in processes):
            return False
        with httpx.Client(timeout=2, trust_env=False) as client:
            if not all(_answers(client, endpoint) for endpoint in deployment.endpoints):
                return False
        warm_up(record.bundle, deployment)
        return True

    def retire(self, deployment: Deployment) -> None:
        with locked(self._home.pods / ".locks" / deployment.service):
            record = pods.read_record(self._home, deployment.service, deployment.slot)
            if record and record.deployment.id == deployment.id:
                self._end(deployment.service, deployment.slot)
                self._forget_answers(record)

    def deployments(self, service: str) -> list[Deployment]:
        groups = {process.group for process in self._supervisor.programs()}
        found = (pods.read_record(self._home, service, slot) for slot in Slot)
        return [record.deployment for record in found if record and record.group in groups]

    def _is_wanted(self, record: PodRecord, bundle: Bundle, replicas: int) -> bool:
        wanted = (bundle.id, replicas, self._faults)
        return (record.deployment.bundle_id, record.replicas, record.faults) == wanted

    def _write_down(self, bundle: Bundle, slot: Slot, replicas: int) -> PodRecord:
        """Choose ports and keep them: routes name them, so pods come back on the same ones."""
        service = bundle.model.name
        with locked(self._home.pods / ".locks" / ".ports"):
            ports = free_ports(pods.port_candidates(self._home), replicas)
            pods.write_last_port(self._home, ports[-1])
            endpoints = tuple(Endpoint(LOCALHOST, port) for port in ports)
            deployment = Deployment(DeploymentRef(service, slot, bundle.id, bundle.model.version), endpoints)
            record = PodRecord(deployment, bundle.path, self._faults)
            pods.write_record(self._home, record)
        return record

    def _start(self, record: PodRecord) -> None:
        if pods.wishes_of(record.bundle).shared_cache:
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
        if not pods.wishes_of(record.bundle).shared_cache:
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

    def _does_not_start(self, process: ProgramState) -> PodDoesNotStart:
        log = self._home.logs / f"{process.name}.log"
        words = log.read_text(errors="replace").strip().splitlines()[-5:] if log.exists() else []
        return PodDoesNotStart(
            "\n  | ".join([f"pod {process.name} ends at start", *words]),
            remedy=f"Read {log}; the bundle can be started by hand with python -m serving.pod.",
        )


def _answers(client: httpx.Client, endpoint: Endpoint) -> bool:
    try:
        return client.get(f"http://{endpoint}/v2/health/ready").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
