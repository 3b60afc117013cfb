"""What a stage's pod asks for, and whose it is that one ended. Statuses as kubelets write them."""

from __future__ import annotations

from typing import Any

import pytest

from model_store.release_spec.kubernetes import BuildKubernetes, Resources, StagePods
from serving.platforms.kubernetes.installation import Builds, BundleLocation, Installation
from serving.platforms.kubernetes.stage_endings import StagePhase, state_of
from serving.platforms.kubernetes.stage_pods import StageWork, stage_pod

WORK = StageWork(
    stage="gate",
    release="fraud-v3-20261130T190000Z",
    model="fraud",
    digest="sha256:" + "a" * 64,
    url="s3://models/p",
    input_url="s3://models/p/builds/r/gate-a/request.json",
    output_url="s3://models/p/builds/r/gate-a/answer.json",
    keys='{"public": []}',
)


def pod(**status: Any) -> dict[str, Any]:
    container = {"image": "stage:1", "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {}}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    return {
        "metadata": {"name": "slipway-gate-1", "uid": "u"},
        "spec": {"nodeName": "node-1", "activeDeadlineSeconds": 60, "containers": [container]},
        "status": {"conditions": [scheduled], **status},
    }


def ended(code: int, **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": "Error", **more}}
    return pod(phase="Failed", containerStatuses=[{"name": "stage", "state": state}])


def phase(of: dict[str, Any] | None, at_most: float | None = 60) -> StagePhase:
    return state_of(of, (), at_most=at_most).phase


@pytest.mark.parametrize(
    "lost",
    [
        None,
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        pod(phase="Failed", reason="Terminated", message="Pod was terminated in response to node shutdown."),
        {**pod(phase="Running"), "metadata": {"name": "p", "uid": "u", "deletionTimestamp": "now"}},
        ended(137, reason="OOMKilled"),
    ],
)
def test_what_a_cluster_took_away_is_lost_and_not_failed(lost: dict[str, Any] | None) -> None:
    assert phase(lost) is StagePhase.LOST


def test_a_pod_that_was_preempted_says_by_what() -> None:
    said = "default-scheduler: preempting to accommodate a higher priority pod"
    taken = ended(143)
    taken["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "message": said})
    found = state_of(taken, (), at_most=60)
    assert found.phase is StagePhase.LOST
    assert said in found.words


def test_a_stage_that_ended_by_itself_is_asked_for_its_answer_and_its_last_lines_are_kept() -> None:
    found = state_of(ended(21, message="a\nno rows\n"), (), at_most=60)
    assert found.phase is StagePhase.ENDED
    assert found.words.endswith("exit code 21\n  | a\n  | no rows")


def test_a_stage_over_its_time_has_failed_and_names_the_limit() -> None:
    found = state_of(pod(phase="Failed", reason="DeadlineExceeded", message="..."), (), at_most=60)
    assert found.phase is StagePhase.FAILED
    assert "after 60 s" in found.words


def test_a_busy_registry_is_waited_for_and_a_name_that_is_nowhere_is_not() -> None:
    def pulling(said: str) -> dict[str, Any]:
        waiting = {"waiting": {"reason": "ErrImagePull", "message": said}}
        return pod(phase="Pending", containerStatuses=[{"name": "stage", "state": waiting}])

    assert phase(pulling("pull QPS exceeded")) is StagePhase.WAITING
    assert phase(pulling("manifest unknown")) is StagePhase.FAILED


def test_waiting_for_room_fails_only_when_it_took_too_long() -> None:
    said = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    waits = pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": said}])
    found = state_of(waits, (), at_most=60)
    assert (found.phase, "3 lack nvidia.com/gpu (it asks for 1)" in found.words) == (StagePhase.WAITING, True)
    assert phase(waits, at_most=0) is StagePhase.FAILED


def test_a_pod_has_no_secret_but_by_name_and_keeps_the_restricted_standard() -> None:
    installation = Installation(builds=Builds(secret="storage"))
    made = stage_pod(
        WORK, StagePods(image="stage:1", namespace="builds", active_deadline_seconds=60), installation
    )
    spec, (container,) = made["spec"], made["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "storage"}}]
    named = {each["name"] for each in container["env"]}
    assert named == {"SLIPWAY_STORAGE_URL", "SLIPWAY_BUNDLE_KEYS", "SLIPWAY_SANDBOX"}
    assert (spec["automountServiceAccountToken"], spec["restartPolicy"]) == (False, "Never")
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["activeDeadlineSeconds"] == 60


def test_devices_are_asked_for_as_they_are_limited() -> None:
    wanted = StagePods(image="stage:1", resources=Resources(limits={"nvidia.com/gpu": 1}))
    (container,) = stage_pod(WORK, wanted, Installation())["spec"]["containers"]
    assert container["resources"]["requests"] == {"nvidia.com/gpu": "1"}


def test_credentials_of_bundles_do_where_builds_have_none() -> None:
    installation = Installation(bundles=BundleLocation(url="s3://models/p", secret="reading"))
    (container,) = stage_pod(WORK, StagePods(image="stage:1"), installation)["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "reading"}}]


def test_a_stage_of_its_own_needs_goes_before_what_all_need() -> None:
    said = BuildKubernetes(image="all:1", stages={"gate": StagePods(image="gate:1")})
    assert (said.of("gate").image, said.of("export").image) == ("gate:1", "all:1")
