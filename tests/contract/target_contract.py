"""What every `ServingTarget` does. Subclass `TargetContract` and give it `target` and `bundles` fixtures."""

from __future__ import annotations

import time
from collections.abc import Callable

from model_store.types import Bundle
from serving.platforms.base import ServingTarget
from serving.types import Deployment, Slot

# Makes a servable bundle of this service and version.
Bundles = Callable[[str, int], Bundle]


def wait_until_ready(target: ServingTarget, deployment: Deployment, *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not target.is_ready(deployment):
        assert time.monotonic() < deadline, f"{deployment.id} is not ready after {seconds} s"
        time.sleep(0.05)


class TargetContract:
    def test_what_was_deployed_becomes_ready_and_is_listed(
        self, target: ServingTarget, bundles: Bundles
    ) -> None:
        bundle = bundles("listed", 3)
        deployment = target.deploy(bundle, Slot.BLUE, replicas=2)
        assert (deployment.service, deployment.bundle_id, deployment.version) == ("listed", bundle.id, 3)
        assert deployment.slot is Slot.BLUE
        assert len(set(deployment.endpoints)) == 2
        wait_until_ready(target, deployment)
        assert target.deployments("listed") == [deployment]
        assert target.deployments("another") == []

    def test_deploying_the_same_again_changes_nothing(self, target: ServingTarget, bundles: Bundles) -> None:
        bundle = bundles("repeated", 1)
        first = target.deploy(bundle, Slot.BLUE, replicas=1)
        wait_until_ready(target, first)
        assert target.deploy(bundle, Slot.BLUE, replicas=1) == first
        assert target.is_ready(first)

    def test_the_two_slots_stand_beside_each_other(self, target: ServingTarget, bundles: Bundles) -> None:
        blue = target.deploy(bundles("two_slots", 1), Slot.BLUE, replicas=1)
        green = target.deploy(bundles("two_slots", 2), Slot.GREEN, replicas=1)
        for deployment in (blue, green):
            wait_until_ready(target, deployment)
        assert target.deployments("two_slots") == [blue, green]
        assert not set(blue.endpoints) & set(green.endpoints)

    def test_another_bundle_in_a_slot_ends_what_stood_there(
        self, target: ServingTarget, bundles: Bundles
    ) -> None:
        old = target.deploy(bundles("replaced", 1), Slot.BLUE, replicas=1)
        wait_until_ready(target, old)
        new = target.deploy(bundles("replaced", 2), Slot.BLUE, replicas=1)
        wait_until_ready(target, new)
        assert target.deployments("replaced") == [new]
        assert new.id != old.id
        assert not target.is_ready(old)

    def test_a_changed_number_of_replicas_takes_effect(self, target: ServingTarget, bundles: Bundles) -> None:
        bundle = bundles("scaled", 1)
        target.deploy(bundle, Slot.BLUE, replicas=1)
        more = target.deploy(bundle, Slot.BLUE, replicas=2)
        wait_until_ready(target, more)
        assert len(more.endpoints) == 2
        assert target.deployments("scaled") == [more]

    def test_retired_pods_are_gone_and_retiring_them_again_is_no_error(
        self, target: ServingTarget, bundles: Bundles
    ) -> None:
        deployment = target.deploy(bundles("retired", 1), Slot.GREEN, replicas=1)
        wait_until_ready(target, deployment)
        target.retire(deployment)
        assert not target.is_ready(deployment)
        assert target.deployments("retired") == []
        target.retire(deployment)

    def test_retiring_what_was_replaced_leaves_its_successor_alone(
        self, target: ServingTarget, bundles: Bundles
    ) -> None:
        old = target.deploy(bundles("succeeded", 1), Slot.BLUE, replicas=1)
        new = target.deploy(bundles("succeeded", 2), Slot.BLUE, replicas=1)
        target.retire(old)
        assert target.deployments("succeeded") == [new]
        wait_until_ready(target, new)
