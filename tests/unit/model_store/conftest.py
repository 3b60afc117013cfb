"""Real models for the tests from export to bundle: the credit MLP, trained once, and a small CNN."""

from __future__ import annotations

import pytest

from model_store.storage.store import Store
from tests.small_models import Credit, Digits, make_credit, make_digits


@pytest.fixture(scope="session")
def credit(tmp_path_factory: pytest.TempPathFactory) -> Credit:
    return make_credit(tmp_path_factory.mktemp("credit"))


@pytest.fixture(scope="session")
def digits() -> Digits:
    return make_digits()


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))
