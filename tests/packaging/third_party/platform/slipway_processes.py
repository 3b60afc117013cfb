"""A platform of somebody else's: pods are plain processes, which nobody starts again when they end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
from slipway.model_store import attestation
from slipway.model_store.installation import python_path
from slipway.model_store.signing import Keyring
from slipway.model_store.storage.place import keys_file
from slipway.serving import pod
from slipway.serving.home import Home
from slipway.serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from slipway.serving.types import DeploymentRef, Endpoint, Slot

HOST = "127.0.0.1"


class Processes:
    """`Platform`. What runs is written down in `<home>/processes/<service>-<slot>.json`."""

    def __init__(self, home: Home) -> None:
        self._home, self._folder = home, home.root / "processes"
        # Python warns of a child that is forgotten while it runs.
        self._children: list[subprocess.Popen[bytes]] = []

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        said = {"ref": asdict(ref), "bundle": str(want.bundle.path), "replicas": want.replicas}
        there = self._read(self._file(ref))
        if there and {key: there[key] for key in said} == said:
            return
        self._end(self._file(ref))
        self._folder.mkdir(parents=True, exist_ok=True)
        pods = [self._start(ref, want.bundle.path, number) for number in range(want.replicas)]
        self._file(ref).write_text(json.dumps({**said, "pods": pods}))

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        there = self._read(self._file(ref))
        if there is None or there["ref"] != asdict(ref):
            return DeploymentStatus(DeploymentPhase.NOT_FOUND, f"{ref.id} does not run here")
        ready = [one for one in there["pods"] if answers(one["port"])]
        endpoints = tuple(Endpoint(HOST, one["port"]) for one in ready)
        if len(ready) == there["replicas"]:
            return DeploymentStatus(DeploymentPhase.READY, endpoints=endpoints)
        if ended := [one for one in there["pods"] if process(one) is None]:
            words = Path(ended[0]["log"]).read_text(errors="replace").strip()[-500:]
            return DeploymentStatus(
                DeploymentPhase.FAILED, f"a pod ended: {words}", endpoints, "release again"
            )
        return DeploymentStatus(DeploymentPhase.IN_PROGRESS, f"{len(ready)} pods answer", endpoints)

    def retire(self, ref: DeploymentRef) -> None:
        there = self._read(self._file(ref))
        if there and there["ref"] == asdict(ref):
            self._end(self._file(ref))

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        read = (self._read(file) for file in sorted(self._folder.glob("*.json")))
        found = [{**there["ref"], "slot": Slot(there["ref"]["slot"])} for there in read if there]
        return [DeploymentRef(**ref) for ref in found if service in (None, ref["service"])]

    def _start(self, ref: DeploymentRef, bundle: Path, number: int) -> dict[str, Any]:
        with socket.create_server((HOST, 0)) as free:
            port = int(free.getsockname()[1])
        log = self._folder / f"{ref.service}-{ref.slot}-{number}.log"
        command = [sys.executable, "-m", pod.__name__, "--bundle", str(bundle), "--port", str(port)]
        # Pods verify what they load, by the keys that whoever starts them names.
        trusted = Keyring.of(keys_file(self._home.store)).trust
        environ = {**os.environ, **python_path(), attestation.VARIABLE: trusted.written()}
        with log.open("wb") as file:
            started = subprocess.Popen(command, env=environ, stdout=file, stderr=file, start_new_session=True)
        self._children.append(started)
        born = psutil.Process(started.pid).create_time()
        return {"pid": started.pid, "born": born, "port": port, "log": str(log)}

    def _end(self, file: Path) -> None:
        there = self._read(file)
        running = [found for one in (there or {"pods": []})["pods"] if (found := process(one))]
        for each in running:
            each.terminate()
        psutil.wait_procs(running, timeout=30)
        self._children = [child for child in self._children if child.poll() is None]
        file.unlink(missing_ok=True)

    def _file(self, ref: DeploymentRef) -> Path:
        return self._folder / f"{ref.service}-{ref.slot}.json"

    def _read(self, file: Path) -> dict[str, Any] | None:
        return json.loads(file.read_text()) if file.exists() else None


def process(one: dict[str, Any]) -> psutil.Process | None:
    """The pod's process; None if it ended, also where another has its number by now."""
    try:
        found = psutil.Process(one["pid"])
        ended = found.create_time() != one["born"] or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return None if ended else found


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://{HOST}:{port}/v2/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
