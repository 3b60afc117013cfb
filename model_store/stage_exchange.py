"""A stage that runs elsewhere: what it is asked, and what it answered, as objects that only this run has.

    builds/<run>/request.json                            what all stages of the run are asked with
    builds/<run>/<stage>-<digest>/request.json           one stage, asked with one thing
    builds/<run>/<stage>-<digest>/answer.json            by whoever ran it: `slipway stage --output`
    builds/<run>/<stage>-<digest>/<pod>.log              what it wrote meanwhile

A stage has passed when there is an answer that says so and the store has what it names. How a process or a
pod ended says nothing of that: one that was ended by hand may look like one that is done (airflow 73006).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model_store.durable import canonical_json, digest_bytes
from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.steps import StepResult
from model_store.storage.base import Missing, ObjectStorage, checked
from model_store.storage.store import Store

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteStage:
    """One stage of one run, asked with one thing."""

    store: Store
    run: str
    stage: str
    digest: str

    @property
    def storage_url(self) -> str:
        """Where the store is."""
        return _shared(self.store).url

    @property
    def input_url(self) -> str:
        """What the stage reads."""
        return f"{_shared(self.store).url}/{self._prefix}/request.json"

    @property
    def output_url(self) -> str:
        """Where it answers."""
        return f"{_shared(self.store).url}/{self._prefix}/answer.json"

    def made(self) -> StepResult | None:
        """What it made; None where it has not said so, or the store lost what was made."""
        said = self._said()
        if said is None or said["status"] != "done" or not self.store.has_result(str(said["value"])):
            return None
        return StepResult(str(said["value"]), str(said.get("words", "")))

    def failure(self) -> SlipwayError | None:
        """Why it made nothing, in its own words; None where it says nothing of the kind."""
        said = self._said()
        if said is None or said["status"] == "done":
            return None
        words, remedy = str(said.get("problem", "it said nothing")), str(said.get("remedy", ""))
        if said["status"] == "retry":
            return Retryable(words, remedy=remedy, delay_seconds=float(said.get("delay_seconds", 5)))
        return Permanent(words, remedy=remedy)

    def _said(self) -> Json | None:
        try:
            said: Json = json.loads(_shared(self.store).get(f"{self._prefix}/answer.json"))
        except (Missing, ValueError):
            return None
        return said if said.get("stage") == self.stage and "status" in said else None

    def forget_answer(self) -> None:
        """Before it is asked again: what was refused then is not refused now."""
        _shared(self.store).delete(f"{self._prefix}/answer.json")

    def keep_log(self, name: str, text: str) -> str:
        """Returns where it is."""
        key = f"{self._prefix}/{checked(name)}.log"
        _shared(self.store).put(key, text.encode())
        return f"{_shared(self.store).url}/{key}"

    @property
    def _prefix(self) -> str:
        return f"builds/{checked(self.run)}/{self.stage}-{self.digest.removeprefix('sha256:')[:32]}"


def ask(
    store: Store, run: str, stage: str, common: Callable[[], Json], handed_on: Json, *, anew: bool = False
) -> RemoteStage:
    """Lay down what a stage is asked. `common`: what all stages of the run are asked with (`request_of`),
    made once; `anew`: made again. Raises `Permanent` where the store is no bucket."""
    content = canonical_json({**_common(store, run, common, anew=anew), **handed_on})
    asked = RemoteStage(store, run, stage, digest_bytes(content))
    _shared(store).put(f"{asked._prefix}/request.json", content)
    return asked


def _common(store: Store, run: str, make: Callable[[], Json], *, anew: bool) -> Json:
    storage, key = _shared(store), f"builds/{checked(run)}/request.json"
    if not anew:
        try:
            found: Json = json.loads(storage.get(key))
            return found
        except Missing:
            pass
    made = make()
    storage.put(key, canonical_json(made))
    return made


def _shared(store: Store) -> ObjectStorage:
    if store.shared is None:
        raise Permanent(
            "stages that run elsewhere share no disk with this machine, and the store is a folder",
            remedy="set SLIPWAY_STORAGE_URL=s3://BUCKET/PREFIX, or build.place: local in the spec",
        )
    return store.shared.storage
