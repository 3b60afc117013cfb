"""Which of a pod's containers is to blame, and for what. Statuses as kubelets write them."""

from __future__ import annotations

from typing import Any

from serving.platforms.kubernetes.pod_trouble import pod_trouble

RUNNING = {"running": {"startedAt": "2026-11-30T19:00:00Z"}}


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "metadata": {"name": "fraud-1", "uid": "u"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "pod"}]},
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
            "containerStatuses": list(containers),
            "initContainerStatuses": list(init),
        },
    }


def container(name: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "image:1", "state": state, "restartCount": 0, "ready": False, **more}


def event(reason: str, said: str, uid: str = "u") -> dict[str, Any]:
    return {"involvedObject": {"uid": uid}, "reason": reason, "message": said}


PROBED = (event("Unhealthy", "Startup probe failed: HTTP probe failed with statuscode: 503"),)
ENDED = {"terminated": {"exitCode": 139, "reason": "Error", "message": "a\nb"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}


def test_a_container_that_is_ready_is_not_blamed_for_what_stands_beside_it() -> None:
    beside = container("mesh", {"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}})
    found = pod_trouble(
        pod(container("pod", RUNNING, ready=True, started=True), beside), PROBED, has_served=True
    )
    assert "cannot be pulled" in found.reason


def test_what_ran_before_the_pod_and_ended_well_is_through() -> None:
    before = container("mesh-init", {"terminated": {"exitCode": 0, "reason": "Completed"}}, ready=True)
    found = pod_trouble(
        pod(container("pod", RUNNING, started=False), init=(before,)), PROBED, has_served=False
    )
    assert "loads its model" in found.reason
    assert not found.is_final


def test_a_probe_that_failed_while_it_started_is_not_told_once_it_has() -> None:
    found = pod_trouble(pod(container("pod", RUNNING, started=True)), PROBED, has_served=True)
    assert "Startup" not in found.reason


def test_a_crash_may_be_chance_twice_and_not_three_times() -> None:
    for times, is_final in ((1, False), (2, False), (3, True)):
        crashed = container("pod", BACK_OFF, lastState=ENDED, restartCount=times)
        found = pod_trouble(pod(crashed), (), has_served=False)
        assert found.is_final is is_final
        assert "exit code 139\n  | a\n  | b" in found.reason


def test_what_another_pod_met_is_not_told_of_this_one() -> None:
    others = (event("FailedMount", "volume is missing", uid="another"),)
    waiting = container("pod", {"waiting": {"reason": "ContainerCreating"}})
    assert "volume" not in pod_trouble(pod(waiting), others, has_served=False).reason
    assert (
        "volume"
        in pod_trouble(pod(waiting), (event("FailedMount", "volume is missing"),), has_served=False).reason
    )


def test_running_out_of_memory_under_load_is_not_the_end_of_what_has_served() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    status = container("pod", RUNNING, lastState=killed, restartCount=1)
    assert not pod_trouble(pod(status), (), has_served=True).is_final
    assert pod_trouble(pod(status), (), has_served=False).is_final
