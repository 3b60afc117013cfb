"""What the launcher tells becomes one sentence and a phase."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serving.platforms.base import DeploymentPhase
from serving.platforms.docker.diagnosis import status_of
from serving.platforms.docker.wanted import Death, PodContainer, PodsRequest, Ref, Standing
from serving.types import Endpoint, Slot

REF = Ref(service="fraud", slot=Slot.BLUE, bundle_id="abc", version=3)


def pod(number: int, **said: Any) -> PodContainer:
    usual = {"number": number, "address": f"10.0.0.{number}", "state": "running", "memory_mebi": 600}
    return PodContainer(**{**usual, **said})


def standing(*pods: PodContainer, **said: Any) -> Standing:
    return Standing(**{"ref": REF, "replicas": 2, "served": (), "pods": pods, **said})


def test_it_is_ready_when_as_many_answer_as_are_wanted() -> None:
    status = status_of(standing(pod(0), pod(1)), {"10.0.0.0", "10.0.0.1"})
    assert status.phase is DeploymentPhase.READY
    assert status.endpoints == (Endpoint("10.0.0.0", 8080), Endpoint("10.0.0.1", 8080))


def test_a_pod_that_served_stays_an_endpoint_while_it_is_down_and_one_that_never_did_is_none() -> None:
    status = status_of(standing(pod(0, state="restarting"), pod(1), served=("10.0.0.0",)), set())
    assert (status.phase, status.endpoints) == (DeploymentPhase.IN_PROGRESS, (Endpoint("10.0.0.0", 8080),))


@pytest.mark.parametrize(
    ("death", "phase", "words"),
    [
        (Death(times=1, exit_code=1, was_out_of_memory=False, words=("no model",)), "failed", "no model"),
        (Death(times=1, exit_code=137, was_out_of_memory=True), "failed", "its limit, 600 MiB"),
        (Death(times=1, exit_code=139, was_out_of_memory=False), "in progress", "exit code 139"),
        (Death(times=3, exit_code=139, was_out_of_memory=False), "failed", "3 times with exit code 139"),
    ],
)
def test_why_a_pod_ends_is_said_and_only_what_no_waiting_heals_has_failed(
    death: Death, phase: str, words: str
) -> None:
    status = status_of(standing(pod(0, state="restarting", death=death), replicas=1), set())
    assert (status.phase, status.endpoints) == (phase, ())
    assert words in status.reason
    served = standing(pod(0, state="restarting", death=death), replicas=1, served=("10.0.0.0",))
    assert status_of(served, set()).phase is DeploymentPhase.IN_PROGRESS


def test_what_docker_refuses_goes_before_what_pods_say() -> None:
    found = standing(problem="there is no image a", remedy="build it", is_final=True)
    status = status_of(found, set())
    assert (status.phase, status.remedy) == (DeploymentPhase.FAILED, "build it")
    assert status.reason == "0 of 2 pods are ready; there is no image a"


@pytest.mark.parametrize("bundle", ["../x", "a/b", "", ".hidden", "a" * 200])
def test_a_bundle_is_named_by_what_leaves_no_folder(bundle: str) -> None:
    with pytest.raises(ValidationError):
        Ref(service="fraud", slot=Slot.BLUE, bundle_id=bundle, version=1)


def test_a_pod_may_have_more_memory_the_larger_its_bundle_is() -> None:
    small, large = (
        PodsRequest(ref=REF, replicas=1),
        PodsRequest(ref=REF, replicas=1, bundle_bytes=100 * 2**20),
    )
    assert (small.memory_mebi(), large.memory_mebi()) == (512, 812)
