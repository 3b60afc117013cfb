from __future__ import annotations

from typing import Any

import pytest

from serving.ledger.base import Unreachable
from serving.ledger.opening import open_ledger
from serving.ledger.rows import RolloutRow
from tests.contract.ledger_contract import Ledgers, SharedLedgerContract, rollout
from tests.postgresql import Server


class TestPostgresqlLedger(SharedLedgerContract):
    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url

    @pytest.fixture
    def empty_url(self, server: Server) -> str:
        return server.database()

    @pytest.fixture
    def ledgers(self, by_clock: Ledgers) -> Ledgers:
        return by_clock

    def drop_triggers(self, connection: Any) -> None:
        connection.exec_driver_sql("DROP TRIGGER audit_append_only ON audit")


def test_a_server_that_answers_nothing_at_all_is_retryable_and_used_again_afterwards(
    server: Server, postgresql_url: str
) -> None:
    ledger = open_ledger(postgresql_url, patience_seconds=0.5)
    ledger.save(rollout("before"))
    with server.stopped():
        # On a connection that is open, and on a new one. Neither is let go before.
        for _ in range(2):
            with pytest.raises(Unreachable):
                ledger.save(rollout("after"))
    while True:
        try:
            ledger.save(rollout("later"))
            break
        except Unreachable:
            continue
    assert {row.release_id for row in ledger.find(RolloutRow)} >= {"before", "later"}
    ledger.close()


def test_connections_that_the_server_ended_are_made_anew(server: Server, postgresql_url: str) -> None:
    ledger = open_ledger(postgresql_url)
    ledger.save(rollout("before"))
    name = postgresql_url.partition("@/")[2].partition("?")[0]
    server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    with pytest.raises(Unreachable):
        ledger.save(rollout("lost"))
    ledger.save(rollout("after"))
    assert [row.release_id for row in ledger.find(RolloutRow)] == ["after", "before"]
    ledger.close()


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: object) -> None:
    with pytest.raises(Unreachable) as refused:
        open_ledger(f"postgresql://slipway:secret@/ledger?host={tmp_path}")
    assert "secret" not in str(refused.value)
    assert "slipway" in str(refused.value)


def test_decisions_are_synced_to_the_disk_and_observations_are_not(postgresql_url: str) -> None:
    ledger = open_ledger(postgresql_url)
    asked = "SHOW synchronous_commit"
    with ledger.database.writing() as connection:
        assert connection.exec_driver_sql(asked).scalar() == "on"
    with ledger.database.writing(durably=False) as connection:
        assert connection.exec_driver_sql(asked).scalar() == "off"
    with ledger.database.writing() as connection:
        assert connection.exec_driver_sql(asked).scalar() == "on"
    ledger.close()
