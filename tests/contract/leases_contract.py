"""What every `serving.ledger.base.Leases` does, the ledger's table and a platform's. Subclass the contract
and give it `leases` and `pass_time`, which lets so many seconds pass on the store's clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.ledger.base import Fenced, Leases

SECONDS = 6.0
PassTime = Callable[[float], None]


class LeasesContract:
    def test_one_of_two_has_it_until_it_is_over_and_the_next_one_has_a_higher_token(
        self, leases: Leases, pass_time: PassTime
    ) -> None:
        first = leases.acquire("controller", "a", seconds=SECONDS)
        assert first
        assert leases.acquire("controller", "b", seconds=SECONDS) is None
        assert leases.acquire("controller", "a", seconds=SECONDS) is None, "another process of that name"
        pass_time(SECONDS + 1)
        second = leases.acquire("controller", "b", seconds=SECONDS)
        assert second
        assert second.token > first.token
        known = leases.lease("controller")
        assert known
        assert known.fence == second.fence

    def test_who_renews_keeps_it(self, leases: Leases, pass_time: PassTime) -> None:
        lease = leases.acquire("controller", "a", seconds=SECONDS)
        assert lease
        for _ in range(3):
            pass_time(SECONDS - 2)
            lease = leases.renew(lease)
            assert leases.acquire("controller", "b", seconds=SECONDS) is None

    def test_who_lost_it_is_told_when_it_renews(self, leases: Leases, pass_time: PassTime) -> None:
        first = leases.acquire("controller", "a", seconds=SECONDS)
        assert first
        pass_time(SECONDS + 1)
        assert leases.acquire("controller", "b", seconds=SECONDS)
        with pytest.raises(Fenced, match="b has it"):
            leases.renew(first)

    def test_one_that_is_given_back_is_free_at_once(self, leases: Leases) -> None:
        first = leases.acquire("controller", "a", seconds=SECONDS)
        assert first
        leases.release(first)
        second = leases.acquire("controller", "b", seconds=SECONDS)
        assert second
        assert second.token > first.token
        leases.release(first)
        known = leases.lease("controller")
        assert known
        assert known.holder == "b", "what somebody lost is not theirs to give back"

    def test_names_are_apart_and_nobody_has_one_that_nobody_asked_for(self, leases: Leases) -> None:
        assert leases.lease("another") is None
        assert leases.acquire("controller", "a", seconds=SECONDS)
        assert leases.acquire("another", "b", seconds=SECONDS)
