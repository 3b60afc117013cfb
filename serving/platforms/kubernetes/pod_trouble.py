"""Why one pod is not ready: its node, its place, its image, its start, its probes. Pure."""

from __future__ import annotations

from dataclasses import replace

from serving.platforms.kubernetes import reasons
from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.bundles import FETCHING
from serving.platforms.kubernetes.deployment import CONTAINER
from serving.platforms.kubernetes.reasons import Trouble

Events = tuple[Object, ...]

# Of `python -m serving.pod` and `python -m model_store.storage`: another try would end the same way.
_FINAL_EXITS = {CONTAINER: (1, 2), FETCHING: (21,)}
# Of the latter: storage does not answer now.
_TRY_AGAIN = 22
# Starts that failed one after the other, whatever of, are no chance any more.
_FAILED_STARTS = 3
_MEMORY = "OOMKilled"

_PULLING = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ErrImageInspect")
_NO_IMAGE = ("InvalidImageName", "ErrImageNeverPull")
_NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError")
_NODE_CANNOT = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")


def pod_trouble(pod: Object, events: Events, *, has_served: bool) -> Trouble:
    """`events`: of this pod among others, oldest first. `has_served`: pods like it were ready before."""
    name, status = pod["metadata"]["name"], pod["status"]
    own = tuple(each for each in events if each["involvedObject"].get("uid") == pod["metadata"]["uid"])
    if status.get("phase") == "Failed":
        said = status.get("message") or status.get("reason") or "no reason given"
        return Trouble(f"the node ended the pod {name}: {said}", "wait: another one is made")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") != "True":
        return reasons.unschedulable(name, scheduled.get("message", ""), _requests(pod))
    if lost := _last(own, ("NodeNotReady",)):
        node = pod["spec"].get("nodeName", "?")
        return Trouble(
            f"the node {node} of the pod {name} does not answer: {lost}",
            "wait: its pods are made anew elsewhere; look at that node",
        )
    for container in _containers(pod):
        if trouble := _of_container(pod, container, own, has_served=has_served):
            return trouble
    if mount := _last(own, _NODE_CANNOT):
        return Trouble(
            f"the pod {name} waits for its node: {mount}", "make what it names; the node tries again"
        )
    return Trouble(f"the pod {name} is being made on {pod['spec'].get('nodeName', 'its node')}", "wait")


def _of_container(pod: Object, container: Object, own: Events, *, has_served: bool) -> Trouble | None:
    """None where it explains nothing: it is through, or it has not begun."""
    state, name = container.get("state") or {}, pod["metadata"]["name"]
    before = (container.get("lastState") or {}).get("terminated")
    if "waiting" in state:
        if trouble := _of_image(container, state["waiting"], own):
            return trouble
        return _ended(pod, container, before, own, has_served=has_served) if before else None
    if ended := state.get("terminated"):
        # What fetches bundles and whatever else comes before the pod is through when it has ended well.
        if ended["exitCode"] == 0 and container["name"] != CONTAINER:
            return None
        return _ended(pod, container, ended, own, has_served=has_served)
    if "running" not in state or container.get("ready"):
        return None
    if container["name"] == FETCHING:
        return Trouble(f"the pod {name} fetches its bundle", "wait")
    if before:
        return _ended(pod, container, before, own, has_served=has_served)
    return _unready(name, container, own)


def _of_image(container: Object, waiting: Object, own: Events) -> Trouble | None:
    why, said = waiting.get("reason", ""), waiting.get("message", "")
    if why in _NO_IMAGE:
        return replace(reasons.image_trouble(container["image"], said), is_final=True)
    if why in _PULLING:
        # The back-off's own sentence says no more than that in older clusters.
        told = _last(own, ("Failed",), containing="Failed to pull")
        return reasons.image_trouble(container["image"], told or said)
    if why in _NOT_MADE:
        return reasons.failed_start(said)
    return None


def _ended(pod: Object, container: Object, ended: Object, own: Events, *, has_served: bool) -> Trouble:
    """It ran and ended. Its last lines come with the status (`terminationMessagePolicy`)."""
    name, times = pod["metadata"]["name"], container.get("restartCount", 0)
    what = "the fetching of its bundle" if container["name"] == FETCHING else "it"
    often = "" if times < 2 else f" {times} times"
    is_passing = container["name"] == FETCHING and ended["exitCode"] == _TRY_AGAIN
    exits = _FINAL_EXITS.get(container["name"], ())
    is_final = (times >= _FAILED_STARTS and not is_passing) or (not has_served and ended["exitCode"] in exits)
    if ended.get("reason") == _MEMORY:
        limit = _limit(pod, container["name"], "memory")
        return Trouble(
            f"the pod {name} was killed{often} because {what} needed more memory than its limit, {limit}",
            "raise `memory` in serving.kubernetes.resources",
            is_final or not has_served,
        )
    if killed := _last(own, ("Killing",), containing="probe"):
        probe = _last(own, ("Unhealthy",)) or killed
        return Trouble(
            f"the pod {name} was restarted{often} because it did not answer in time: {probe}",
            "raise serving.ready_timeout_seconds if it only needs longer to load; else read its log",
            times >= _FAILED_STARTS,
        )
    if ended.get("reason") == "StartError":
        return reasons.failed_start(ended.get("message", ""))
    code = ended["exitCode"]
    lines = [line for line in ended.get("message", "").strip().splitlines() if line][-5:]
    return Trouble(
        "\n  | ".join([f"the pod {name} ends{often} at start: {what} ended with exit code {code}", *lines]),
        f"read the whole of it: kubectl logs --previous {name} -c {container['name']}",
        is_final,
    )


def _unready(name: str, container: Object, own: Events) -> Trouble:
    """It runs and was not restarted: it loads, or its probes fail now."""
    if not container.get("started"):
        said = _last(own, ("Unhealthy",))
        more = f" ({said})" if said else ""
        return Trouble(f"the pod {name} loads its model and answers its warm rows{more}", "wait")
    said = _last(own, ("Unhealthy",), containing="Readiness")
    return Trouble(
        f"the pod {name} takes no traffic: {said or 'its readiness probe has not passed yet'}",
        "read the pod's log; it may be overloaded or reloading",
    )


def _containers(pod: Object) -> list[Object]:
    status = pod["status"]
    ours = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    # Others may have put containers of theirs beside ours (a service mesh does): they count, after ours.
    return sorted(ours, key=lambda each: each["name"] not in (FETCHING, CONTAINER))


def _condition(pod: Object, kind: str) -> Object:
    conditions = pod["status"].get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})


def _last(own: Events, kinds: tuple[str, ...], containing: str = "") -> str:
    """What the youngest event of these kinds says; empty without one."""
    said = [each.get("message", "") for each in own if each.get("reason") in kinds]
    return next((each for each in reversed(said) if containing in each), "")


def _requests(pod: Object) -> dict[str, str]:
    return _own_container(pod, CONTAINER).get("resources", {}).get("requests") or {}


def _limit(pod: Object, container: str, resource: str) -> str:
    limits = _own_container(pod, container).get("resources", {}).get("limits") or {}
    return str(limits.get(resource, "its node's"))


def _own_container(pod: Object, name: str) -> Object:
    spec = pod["spec"]
    every = [*(spec.get("initContainers") or ()), *spec["containers"]]
    return next((each for each in every if each["name"] == name), {})
