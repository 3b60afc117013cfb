"""Each deployment on the platform that its bundle's spec names (`serving.target`).

Which platforms a service was ever put on is kept in `<home>/platforms/<service>.json` until nothing of it
stands there: a spec may name another one from version to version, and the old pods have to be ended.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from model_store.durable import write_file
from model_store.errors import Permanent, SlipwayError
from model_store.extensions import PLATFORMS
from model_store.locks import locked
from model_store.types import Bundle
from serving.home import Home
from serving.platforms.base import (
    DeploymentPhase,
    DeploymentSpec,
    DeploymentStatus,
    Followed,
    Platform,
    Refusing,
)
from serving.types import DeploymentRef

# So often it is asked which platforms there are to be followed.
FOLLOW_SECONDS = 1.0
# Where everything ran before a spec could say it: what a spec means that says nothing.
USUAL = "local"

# What that is where pods are no processes beside the others: `docker` in docker-compose.yaml.
LOCAL = "SLIPWAY_LOCAL_PLATFORM"


def platform_of(home: Home, environ: Mapping[str, str] = os.environ) -> PlatformBySpec:
    """Of an installation. Nothing is loaded or asked yet."""
    usual = environ.get(LOCAL) or USUAL
    return PlatformBySpec(home.platforms, lambda name: PLATFORMS.load(name)(home), usual=usual)


log = logging.getLogger(__name__)


class PlatformBySpec:
    """`Platform` made of those that specs name. `make` gives one by its name, and raises `Permanent`.

    `usual` is what `local` means here.
    """

    def __init__(self, folder: Path, make: Callable[[str], Platform], *, usual: str = USUAL) -> None:
        self._folder, self._usual = folder, usual
        self._make = make
        self._made: dict[str, Platform] = {}

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        wanted = self._here(_target_of(want.bundle))
        chosen = self._platform(wanted)
        with self._locked(ref.service):
            # Before there is anything to find: whoever comes after a crash here looks there too.
            self._write(ref.service, {*self._names(ref.service), wanted})
        for name in self._names(ref.service) - {wanted}:
            self._end(ref, name)
        chosen.apply(ref, want)

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        for name in sorted(self._names(ref.service)):
            status = self._platform(name).status(ref)
            if status.phase is not DeploymentPhase.NOT_FOUND:
                return status
        return status

    def retire(self, ref: DeploymentRef) -> None:
        for name in sorted(self._names(ref.service)):
            self._platform(name).retire(ref)
        with self._locked(ref.service):
            used = {
                name for name in self._names(ref.service) if self._platform(name).deployments(ref.service)
            }
            self._write(ref.service, used)

    def refusal(self, serving: Mapping[str, Any]) -> Permanent | None:
        """Of the platform that `serving` names."""
        platform = self._platform(self._here(str(serving.get("target", USUAL))))
        return platform.refusal(serving) if isinstance(platform, Refusing) else None

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        names = self._names(service) if service else self._all_names()
        found = {ref for name in names for ref in self._platform(name).deployments(service)}
        return sorted(found, key=lambda ref: (ref.service, ref.slot))

    def follow(self, changed: Callable[[str], None], ending: threading.Event) -> None:
        """Those that services are on, also the ones that come later."""
        threading.Thread(target=self._follow, args=(changed, ending), daemon=True, name="platforms").start()

    def _follow(self, changed: Callable[[str], None], ending: threading.Event) -> None:
        followed: set[str] = set()
        while not ending.wait(FOLLOW_SECONDS):
            for name in self._made.keys() - followed:
                platform = self._made[name]
                try:
                    if isinstance(platform, Followed):
                        platform.follow(changed, ending)
                    followed.add(name)
                except SlipwayError as problem:
                    log.debug("%s is not followed yet: %s", name, problem)

    def _platform(self, name: str) -> Platform:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _end(self, ref: DeploymentRef, name: str) -> None:
        """What an earlier version left in this slot on another platform."""
        for left in self._platform(name).deployments(ref.service):
            if left.slot is ref.slot:
                self._platform(name).retire(left)

    def _here(self, name: str) -> str:
        return self._usual if name == USUAL else name

    def _names(self, service: str) -> set[str]:
        try:
            found = {*json.loads((self._folder / f"{service}.json").read_bytes())}
        except FileNotFoundError:
            found = set()
        return {self._here(name) for name in found} or {self._usual}

    def _all_names(self) -> set[str]:
        written = (path.stem for path in self._folder.glob("*.json"))
        return {self._usual, *(name for service in written for name in self._names(service))}

    def _write(self, service: str, names: set[str]) -> None:
        if names != self._names(service):
            write_file(self._folder / f"{service}.json", json.dumps(sorted(names)).encode())

    def _locked(self, service: str) -> AbstractContextManager[None]:
        return locked(self._folder / ".locks" / service)


def _target_of(bundle: Bundle) -> str:
    """Raises `Permanent` when the bundle's manifest is not readable."""
    try:
        serving = json.loads((bundle.path / "manifest.json").read_bytes()).get("serving", {})
        return str(serving.get("target", USUAL))
    except (OSError, ValueError, AttributeError) as error:
        raise Permanent(
            f"{bundle.path} is not a readable bundle: {error!r}",
            remedy="Publish it again: release the version anew.",
        ) from error
