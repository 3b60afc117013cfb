"""One release of a model at a time; of those that wait, the newest."""

from __future__ import annotations

from slipway_airflow.admission import Turn, give_up, take_turn

from tests.airflow.world import MODEL, World


def test_the_first_request_takes_the_lock(world: World) -> None:
    assert take_turn(world.services, world.release(1)).turn is Turn.TAKEN


def test_asking_again_keeps_the_lock(world: World) -> None:
    release = world.release(1)
    take_turn(world.services, release)
    assert take_turn(world.services, release).turn is Turn.TAKEN


def test_a_second_request_waits_for_the_first_and_says_so(world: World) -> None:
    first, second = world.release(1), world.release(2, second=1)
    take_turn(world.services, first)
    place = take_turn(world.services, second)
    assert (place.turn, place.words) == (Turn.WAITING, f"waits for {first.id}")


def test_the_waiting_request_goes_on_when_the_first_is_over(world: World) -> None:
    first, second = world.release(1), world.release(2, second=1)
    take_turn(world.services, first)
    take_turn(world.services, second)
    give_up(world.services, first)
    assert take_turn(world.services, second).turn is Turn.TAKEN


def test_a_newer_request_supersedes_the_one_that_waits(world: World) -> None:
    first, second, third = world.release(1), world.release(2, second=1), world.release(3, second=2)
    for release in (first, second, third):
        take_turn(world.services, release)
    place = take_turn(world.services, second)
    assert (place.turn, place.words) == (Turn.OVER, f"superseded by {third.id}")


def test_a_request_superseded_once_stays_so_when_the_newer_one_holds_the_lock(world: World) -> None:
    first, second, third = world.release(1), world.release(2, second=1), world.release(3, second=2)
    for release in (first, second, third):
        take_turn(world.services, release)
    give_up(world.services, first)
    take_turn(world.services, third)
    assert take_turn(world.services, second).words == f"superseded by {third.id}"


def test_the_same_version_asked_for_twice_is_released_once(world: World) -> None:
    first, again = world.release(1), world.release(1, second=1)
    take_turn(world.services, first)
    place = take_turn(world.services, again)
    assert place.turn is Turn.OVER
    assert first.id in place.words
    assert "same version" in place.words
    assert world.lock.read(MODEL).waiting is None


def test_two_requests_within_one_second_get_names_of_their_own(world: World) -> None:
    assert world.release(1, run_id="a").id != world.release(1, run_id="b").id


def test_a_run_that_starts_again_is_the_same_release_though_the_alias_moved(world: World) -> None:
    first = world.release(1, run_id="a")
    again = world.releases.open(first.request, world.spec, lambda wanted: 2)
    assert (again.id, again.version) == (first.id, 1)
