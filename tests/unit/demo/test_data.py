"""The four files of the demo: whole, disjoint, and the same every time."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from demo.data import FEATURES, LABEL, NUMBERS, SLICES, SOURCE, Parts, featurize, prepare
from model_store.errors import Permanent

NAMES = ("train", "calibration", "evaluation", "traffic")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tables(parts: Parts) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(getattr(parts, name)) for name in NAMES}


@pytest.fixture
def raw() -> pd.DataFrame:
    return pd.read_csv(SOURCE)


def test_every_part_has_features_label_and_slices_in_that_order(tables: dict[str, pd.DataFrame]) -> None:
    for table in tables.values():
        assert list(table.columns) == [*FEATURES, LABEL, *SLICES]
        assert set(table[list(FEATURES)].dtypes.astype(str)) == {"float32"}
        assert set(table[LABEL]) == {0, 1}
        assert not table.isna().any().any()


def test_parts_hold_every_different_application_once(
    tables: dict[str, pd.DataFrame], raw: pd.DataFrame
) -> None:
    different = raw.drop(columns="Status").drop_duplicates()
    assert sum(map(len, tables.values())) == len(different)


def test_no_two_parts_share_a_row_of_features(tables: dict[str, pd.DataFrame]) -> None:
    for one, other in combinations(tables.values(), 2):
        assert one[list(FEATURES)].merge(other[list(FEATURES)]).empty


def test_parts_have_the_same_share_of_bad_loans(tables: dict[str, pd.DataFrame]) -> None:
    shares = [float(table[LABEL].mean()) for table in tables.values()]
    assert max(shares) - min(shares) < 0.001


def test_preparing_twice_writes_the_same_bytes(parts: Parts, tmp_path: Path) -> None:
    again = prepare(tmp_path)
    for name in NAMES:
        assert getattr(again, name).read_bytes() == getattr(parts, name).read_bytes()


def test_another_seed_deals_other_rows(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    other = pd.read_parquet(prepare(tmp_path, seed=8).train)
    assert not other.equals(tables["train"])


def test_a_missing_number_becomes_the_median_and_says_so(raw: pd.DataFrame) -> None:
    row = raw[raw["Income"].isna()].head(1)
    features = featurize(row, raw[list(NUMBERS)].median()).iloc[0]
    assert features["Income"] == raw["Income"].median()
    assert features["Income_missing"] == 1


def test_a_missing_category_is_no_category_and_an_unknown_slice(raw: pd.DataFrame) -> None:
    row = raw[raw["Home"].isna()].head(1)
    table = featurize(row, raw[list(NUMBERS)].median())
    assert not table.filter(regex="^Home_").to_numpy().any()
    assert table["Home"].tolist() == ["unknown"]


def test_every_category_in_the_source_has_its_feature(raw: pd.DataFrame) -> None:
    present = raw.dropna(subset=["Home", "Marital", "Records", "Job"])
    table = featurize(present, raw[list(NUMBERS)].median())
    for name in ("Home", "Marital", "Records", "Job"):
        assert (table.filter(regex=f"^{name}_(?!missing)").sum(axis=1) == 1).all()


def test_a_table_without_its_columns_is_refused_by_name(raw: pd.DataFrame, tmp_path: Path) -> None:
    raw.drop(columns=["Income", "Job"]).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(Permanent, match="lacks the columns Income, Job"):
        prepare(tmp_path / "out", tmp_path / "short.csv")
