"""What every `Platform` does. Subclass `PlatformContract` and give it `platform`, `bundles` and `unservable`.

Nothing here expects that `apply` waits, that a pod keeps its address, that one that was ready stays so, or
that a pod is a process of this machine: what is promised comes about sooner or later, and is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from model_store.types import Bundle
from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus, Platform
from serving.types import DeploymentRef, Slot

# Makes a servable bundle of this service and version.
Bundles = Callable[[str, int], Bundle]


def ref_of(bundle: Bundle, slot: Slot = Slot.BLUE) -> DeploymentRef:
    return DeploymentRef(bundle.model.name, slot, bundle.id, bundle.model.version)


def applied(
    platform: Platform, bundle: Bundle, slot: Slot = Slot.BLUE, *, replicas: int = 1
) -> DeploymentRef:
    ref = ref_of(bundle, slot)
    platform.apply(ref, DeploymentSpec(bundle, replicas))
    return ref


def wait_for(
    platform: Platform,
    ref: DeploymentRef,
    wanted: Callable[[DeploymentStatus], bool],
    *,
    seconds: float = 90,
) -> DeploymentStatus:
    """The first status that is as `wanted`. Whatever is seen on the way says what is missing."""
    deadline = time.monotonic() + seconds
    while not wanted(status := platform.status(ref)):
        assert status.is_ready or status.reason, f"{ref.id} is {status.phase} and says nothing"
        assert time.monotonic() < deadline, f"{ref.id} is {status} after {seconds} s"
        time.sleep(0.05)
    return status


def wait_until_ready(platform: Platform, ref: DeploymentRef, *, seconds: float = 90) -> DeploymentStatus:
    return wait_for(platform, ref, lambda status: status.is_ready, seconds=seconds)


def wait_until_gone(platform: Platform, ref: DeploymentRef) -> DeploymentStatus:
    return wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.NOT_FOUND)


class PlatformContract:
    def test_what_was_applied_becomes_ready_with_an_endpoint_for_each_pod(
        self, platform: Platform, bundles: Bundles
    ) -> None:
        ref = applied(platform, bundles("listed", 3), replicas=2)
        assert platform.deployments("listed") == [ref]
        assert ref in platform.deployments()
        assert platform.deployments("another") == []
        assert len(set(wait_until_ready(platform, ref).endpoints)) == 2

    def test_applying_the_same_again_changes_nothing(self, platform: Platform, bundles: Bundles) -> None:
        bundle = bundles("repeated", 1)
        ref = applied(platform, bundle)
        wait_until_ready(platform, ref)
        assert applied(platform, bundle) == ref
        assert platform.deployments("repeated") == [ref]
        wait_until_ready(platform, ref)

    def test_the_two_slots_stand_beside_each_other(self, platform: Platform, bundles: Bundles) -> None:
        blue = applied(platform, bundles("two_slots", 1), Slot.BLUE)
        green = applied(platform, bundles("two_slots", 2), Slot.GREEN)
        assert platform.deployments("two_slots") == [blue, green]
        ours, theirs = wait_until_ready(platform, blue), wait_until_ready(platform, green)
        assert not set(ours.endpoints) & set(theirs.endpoints)

    def test_another_bundle_in_a_slot_ends_what_stood_there(
        self, platform: Platform, bundles: Bundles
    ) -> None:
        old = applied(platform, bundles("replaced", 1))
        wait_until_ready(platform, old)
        new = applied(platform, bundles("replaced", 2))
        assert platform.deployments("replaced") == [new]
        wait_until_gone(platform, old)
        wait_until_ready(platform, new)

    def test_a_changed_number_of_replicas_takes_effect(self, platform: Platform, bundles: Bundles) -> None:
        bundle = bundles("scaled", 1)
        applied(platform, bundle, replicas=1)
        ref = applied(platform, bundle, replicas=2)
        assert platform.deployments("scaled") == [ref]
        wait_for(platform, ref, lambda status: status.is_ready and len(status.endpoints) == 2)

    def test_retired_pods_are_gone_and_retiring_them_again_is_no_error(
        self, platform: Platform, bundles: Bundles
    ) -> None:
        ref = applied(platform, bundles("retired", 1), Slot.GREEN)
        wait_until_ready(platform, ref)
        platform.retire(ref)
        assert platform.deployments("retired") == []
        assert wait_until_gone(platform, ref).endpoints == ()
        platform.retire(ref)

    def test_what_was_retired_may_be_applied_again(self, platform: Platform, bundles: Bundles) -> None:
        bundle = bundles("returned", 1)
        ref = applied(platform, bundle)
        platform.retire(ref)
        assert applied(platform, bundle) == ref
        wait_until_ready(platform, ref)

    def test_retiring_what_was_replaced_leaves_its_successor_alone(
        self, platform: Platform, bundles: Bundles
    ) -> None:
        old = applied(platform, bundles("succeeded", 1))
        new = applied(platform, bundles("succeeded", 2))
        platform.retire(old)
        assert platform.deployments("succeeded") == [new]
        wait_until_ready(platform, new)

    def test_what_was_never_applied_is_not_found(self, platform: Platform, bundles: Bundles) -> None:
        status = platform.status(ref_of(bundles("unheard_of", 1)))
        assert (status.phase, status.endpoints) == (DeploymentPhase.NOT_FOUND, ())
        assert status.reason

    def test_pods_that_cannot_start_fail_with_the_reason_and_without_endpoints(
        self, platform: Platform, unservable: Bundle
    ) -> None:
        ref = applied(platform, unservable)
        status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED, seconds=120)
        assert status.reason
        assert status.endpoints == ()
        platform.retire(ref)
        wait_until_gone(platform, ref)
