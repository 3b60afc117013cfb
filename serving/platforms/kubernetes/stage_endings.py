"""How the pod of a stage is, and whose it is that it ended: the node's, the cluster's, the stage's. Pure.

That it ended well is no word of the stage's: that is in its answer (`model_store.stage_exchange`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serving.platforms.kubernetes import reasons
from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.reasons import Trouble

CONTAINER = "stage"

_PULLING = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageInspect")
_NO_IMAGE = ("InvalidImageName", "ErrImageNeverPull")
_NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_LAST_LINES = 8


class StagePhase(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    # Not by itself: it was deleted or evicted, its node is lost. Another one may go on.
    LOST = "lost"
    # No other one would do better.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageState:
    """`words`: for a person, with `remedy`."""

    phase: StagePhase
    words: str
    remedy: str = ""

    @property
    def is_running(self) -> bool:
        """Whether it is worth waiting for."""
        return self.phase in (StagePhase.WAITING, StagePhase.RUNNING)


_AGAIN = "nothing: the stage is run again, and goes on from what is in the storage"


def state_of(pod: Object | None, events: tuple[Object, ...], *, at_most: float | None) -> StageState:
    """`events`: of a pod that has not begun, oldest first. `at_most`: seconds that it may still wait; None
    for ever."""
    if pod is None:
        return StageState(StagePhase.LOST, "its pod was deleted", _AGAIN)
    name, status = pod["metadata"]["name"], pod["status"]
    if status.get("phase") == "Succeeded":
        return StageState(StagePhase.ENDED, f"the pod {name} ended")
    if status.get("phase") == "Failed":
        return _failed(pod)
    if pod["metadata"].get("deletionTimestamp"):
        why = _disruption(pod)
        return StageState(StagePhase.LOST, f"the pod {name} was deleted{f': {why}' if why else ''}", _AGAIN)
    if status.get("phase") == "Running":
        return StageState(StagePhase.RUNNING, f"the pod {name} runs on {pod['spec'].get('nodeName', '?')}")
    return _waiting(pod, events, at_most)


def _failed(pod: Object) -> StageState:
    name, status = pod["metadata"]["name"], pod["status"]
    reason, said = status.get("reason", ""), status.get("message", "")
    if reason == "DeadlineExceeded":
        seconds = pod["spec"].get("activeDeadlineSeconds")
        return StageState(
            StagePhase.FAILED,
            f"the pod {name} was not done after {seconds} s, which is its limit",
            "raise build.kubernetes.active_deadline_seconds, or give it more processors",
        )
    ended = (_container(pod).get("state") or {}).get("terminated")
    if reason or ended is None or _disruption(pod):
        why = said or reason or _disruption(pod) or "no reason given"
        return StageState(StagePhase.LOST, f"the node ended the pod {name}: {why}", _AGAIN)
    if ended.get("reason") == "OOMKilled":
        limit = pod["spec"]["containers"][0]["resources"].get("limits", {}).get("memory", "its node's")
        return StageState(
            StagePhase.LOST,
            f"the pod {name} was killed because it needed more memory than its limit, {limit}",
            "raise `memory` in build.kubernetes.resources",
        )
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        trouble = reasons.failed_start(ended.get("message", ""))
        return StageState(StagePhase.FAILED, trouble.reason, trouble.remedy)
    lines = [line for line in ended.get("message", "").strip().splitlines() if line][-_LAST_LINES:]
    words = "\n  | ".join([f"the pod {name} ended with exit code {ended['exitCode']}", *lines])
    return StageState(StagePhase.ENDED, words, "read its log, below")


def _waiting(pod: Object, events: tuple[Object, ...], at_most: float | None) -> StageState:
    trouble = _why_it_waits(pod, events)
    if trouble.is_final:
        return StageState(StagePhase.FAILED, trouble.reason, trouble.remedy)
    if at_most is not None and at_most <= 0:
        words = f"{trouble.reason}; it waited as long as build.kubernetes.schedule_timeout_seconds allows"
        return StageState(StagePhase.FAILED, words, trouble.remedy)
    return StageState(StagePhase.WAITING, trouble.reason, trouble.remedy)


def _why_it_waits(pod: Object, events: tuple[Object, ...]) -> Trouble:
    name = pod["metadata"]["name"]
    conditions: list[Object] = pod["status"].get("conditions") or []
    scheduled = next((each for each in conditions if each["type"] == "PodScheduled"), {})
    if scheduled.get("status") != "True":
        requests = pod["spec"]["containers"][0]["resources"].get("requests") or {}
        found = reasons.unschedulable(name, scheduled.get("message", ""), requests)
        return Trouble(found.reason, "add or free such nodes, or change build.kubernetes")
    waiting = (_container(pod).get("state") or {}).get("waiting") or {}
    why, said = waiting.get("reason", ""), waiting.get("message", "")
    image = pod["spec"]["containers"][0]["image"]
    if why in _NO_IMAGE:
        return Trouble(
            f"the image {image} cannot be pulled: {said}",
            "correct `image` in build.kubernetes",
            is_final=True,
        )
    if why in _PULLING:
        return reasons.image_trouble(image, _told(events, "Failed to pull") or said)
    if why in _NOT_MADE:
        return reasons.failed_start(said)
    return Trouble(f"the pod {name} is being made on {pod['spec'].get('nodeName', 'its node')}", "wait")


def _told(events: tuple[Object, ...], words: str) -> str:
    """What the youngest event says that holds these words."""
    said = (str(each.get("message", "")) for each in reversed(events))
    return next((each for each in said if words in each), "")


def _container(pod: Object) -> Object:
    found = pod["status"].get("containerStatuses") or ()
    return next((each for each in found if each["name"] == CONTAINER), {})


def _disruption(pod: Object) -> str:
    """Why the cluster ends it: preempted by another pod, its node drained or lost."""
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition.get("status") == "True":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""
