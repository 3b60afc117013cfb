"""Rows as tensors, and why a file cannot be them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import csv, parquet

from model_store.dataset import Dataset, UnusableData, hash_rows, read_dataset
from model_store.durable import digest_bytes
from model_store.errors import Permanent
from model_store.release_spec import Data
from model_store.tables import read_table
from model_store.types import TensorSpec

INPUT = TensorSpec("input", "FP32", (-1, 2))
GOOD: dict[str, Any] = {
    "age": [20.0, 30.5, 40.0, 50.0],
    "income": [1, 2, 3, 4],
    "bad": [0, 1, 0, 1],
    "home": ["rent", None, "own", "rent"],
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes GOOD with these columns changed (None: left out) to a file of this name."""

    def write(name: str = "rows.parquet", **changes: Any) -> Path:
        table = pa.table({key: value for key, value in (GOOD | changes).items() if value is not None})
        path = tmp_path / name
        parquet.write_table(table, path) if path.suffix == ".parquet" else csv.write_csv(table, path)
        return path

    return write


def data(**changes: Any) -> Data:
    said = {"evaluation": "e.csv", "calibration": "c.csv", "label": "bad", "slices": ("home",)}
    return Data(**said | changes)


def read(path: Path, *inputs: TensorSpec, said: Data | None = None, **options: Any) -> Dataset:
    return read_dataset(path, said or data(), inputs or (INPUT,), **options)


def refusal(path: Path, *inputs: TensorSpec, said: Data | None = None, **options: Any) -> Permanent:
    with pytest.raises(Permanent) as refused:
        read(path, *inputs, said=said, **options)
    assert str(path) in refused.value.problem or "data.inputs" in refused.value.problem
    return refused.value


def test_columns_that_are_neither_label_nor_slice_become_the_one_input(write: Write) -> None:
    path = write()
    rows = read(path)

    np.testing.assert_array_equal(rows.inputs["input"], [[20, 1], [30.5, 2], [40, 3], [50, 4]])
    assert rows.inputs["input"].dtype == np.float32
    assert rows.columns == {"input": ("age", "income")}
    assert rows.labels is not None
    assert (rows.labels.tolist(), rows.labels.dtype) == ([0, 1, 0, 1], np.int64)
    assert rows.slices["home"].tolist() == ["rent", "(missing)", "own", "rent"]
    assert rows.digest == digest_bytes(path.read_bytes())
    assert len(rows) == 4


def test_a_csv_file_gives_the_same_rows_as_a_parquet_file(write: Write) -> None:
    one, other = read(write("rows.csv")), read(write("rows.parquet"))

    np.testing.assert_array_equal(one.inputs["input"], other.inputs["input"])
    np.testing.assert_array_equal(one.row_hashes, other.row_hashes)
    assert one.slices["home"].tolist() == other.slices["home"].tolist()


def test_na_in_a_csv_is_missing_among_numbers_and_a_country_among_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("country,age,bad\nDE,1,0\nNA,NA,1\n,3,0\n")
    table, _ = read_table(path)

    assert table.column("country").to_pylist() == ["DE", "NA", None]
    assert table.column("age").to_pylist() == [1, None, 3]


@pytest.mark.parametrize(
    ("values", "datatype", "refused"),
    [
        (1_700_000_000 + np.arange(4), "FP32", True),
        (1_700_000_000 + np.arange(4), "FP64", False),
        (2**53 + np.arange(4), "FP64", True),
        (1_700_000_000 + np.arange(4) * 86_400.0, "FP32", False),
        (np.array([0.1, 0.2, 0.3, 0.7]), "FP32", False),
        (np.full(4, 0.1), "FP32", False),
        (np.array([0.3, 0.1 + 0.2, 0.3, 0.3]), "FP32", False),
    ],
)
def test_a_cast_that_makes_rows_alike_is_refused_and_rounding_is_not(
    write: Write, values: Any, datatype: Any, refused: bool
) -> None:
    path = write(age=values)
    said = data(inputs={"x": ("age",)})
    if refused:
        with pytest.raises(Permanent, match="column `age` differs between rows by"):
            read(path, TensorSpec("x", datatype, (-1, 1)), said=said)
        return
    taken = read(path, TensorSpec("x", datatype, (-1, 1)), said=said).inputs["x"]
    np.testing.assert_allclose(taken[:, 0], values, rtol=1e-7)


def test_the_spec_says_which_columns_fill_which_tensor_and_in_which_order(write: Write) -> None:
    said = data(inputs={"x": ("income", "age"), "text": "home", "one": "age"}, slices=())
    path = write(home=["a", "b", "c", "d"])
    text, one = TensorSpec("text", "BYTES", (-1, 1)), TensorSpec("one", "FP64", (-1,))

    rows = read(path, TensorSpec("x", "FP32", (-1, 2)), text, one, said=said)

    assert rows.inputs["x"][0].tolist() == [1, 20]
    assert rows.inputs["text"].tolist() == [["a"], ["b"], ["c"], ["d"]]
    assert (rows.inputs["one"].shape, rows.inputs["one"].dtype) == ((4,), np.float64)


def test_several_inputs_take_the_columns_of_their_names(write: Write) -> None:
    inputs = TensorSpec("income", "INT64", (-1, 1)), TensorSpec("age", "FP32", (-1, 1))

    assert read(write(), *inputs).inputs["income"].tolist() == [[1], [2], [3], [4]]


def test_the_columns_of_an_export_win_over_what_is_left_in_the_file(write: Write) -> None:
    rows = read(write(extra=[9, 9, 9, 9]), columns={"input": ("income", "age")})

    assert rows.inputs["input"][0].tolist() == [1, 20]


def test_a_column_of_lists_takes_the_shape_of_its_tensor(write: Write) -> None:
    path = write(image=[list(range(n, n + 4)) for n in range(4)])
    said, image = data(inputs={"image": "image"}), TensorSpec("image", "FP32", (-1, 1, 2, 2))

    assert read(path, image, said=said).inputs["image"][1].tolist() == [[[1, 2], [3, 4]]]
    free = TensorSpec("image", "INT64", (-1, -1))
    assert read(path, free, said=said).inputs["image"].shape == (4, 4)


def test_calibration_rows_need_no_labels_and_no_slices(write: Write) -> None:
    rows = read(write(bad=None, home=None), labelled=False)

    assert (rows.labels, rows.groups, rows.slices) == (None, None, {})


def test_categories_are_the_values_they_stand_for(write: Write) -> None:
    def category(values: list[Any]) -> pa.Array:
        return pa.array(values).dictionary_encode()

    rows = read(
        write(
            age=category([1.5, 2.5, 1.5, 1.5]),
            bad=category([0, 1, 0, 1]),
            home=category(["a", None, "b", "a"]),
        )
    )

    assert rows.inputs["input"][:, 0].tolist() == [1.5, 2.5, 1.5, 1.5]
    assert rows.slices["home"].tolist() == ["a", "(missing)", "b", "a"]


@pytest.mark.parametrize(
    ("labels", "read_as"),
    [
        (["no", "yes", "no", "no"], ["no", "yes", "no", "no"]),
        ([2, 0, 1, 2], [2, 0, 1, 2]),
        ([2.0, 0.0, 1.0, 2.0], [2, 0, 1, 2]),
        ([0.5, 1.0, 2.0, 3.0], [0.5, 1.0, 2.0, 3.0]),
        ([True, False, True, True], [True, False, True, True]),
    ],
)
def test_labels_stay_the_words_that_they_are_in_the_file(
    write: Write, labels: list[Any], read_as: list[Any]
) -> None:
    rows = read(write(bad=labels), said=data(positive=2))

    assert rows.labels is not None
    assert rows.labels.tolist() == read_as
    assert [type(value) for value in rows.labels.tolist()] == [type(value) for value in read_as]


def test_several_labels_and_groups_are_read_and_never_fed(write: Write) -> None:
    path = write(spam=[True, False, True, True], query=["b", "a", "b", "a"])
    rows = read(path, said=data(label=("bad", "spam"), group="query"))

    assert rows.columns == {"input": ("age", "income")}
    assert rows.labels is not None
    assert rows.labels.tolist() == [[0, 1], [1, 0], [0, 1], [1, 1]]
    assert rows.groups is not None
    assert rows.groups.tolist() == [1, 0, 1, 0]
    with pytest.raises(UnusableData, match=r"the label `spam` holds '0', '2'"):
        read(write(spam=[0, 2, 0, 2]), said=data(label=("bad", "spam")))


def test_a_slice_column_of_too_many_values_is_refused_with_the_limit(write: Write) -> None:
    said = data(max_slice_values=2)

    refused = refusal(write(), said=said)
    assert "the slice column `home` holds 3 different values, and the limit is 2" in refused.problem
    assert "data.max_slice_values" in refused.remedy


def test_taken_rows_keep_everything_that_belongs_to_them(write: Write) -> None:
    rows = read(write())
    taken = rows.take(rows.slices["home"] == "rent")

    assert taken.inputs["input"].tolist() == [[20, 1], [50, 4]]
    assert taken.labels is not None
    assert taken.labels.tolist() == [0, 1]
    assert taken.row_hashes.tolist() == rows.row_hashes[[0, 3]].tolist()
    assert (len(taken), taken.digest) == (2, rows.digest)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path, write: Write) -> None:
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_text("age,income,bad,home\n")
    (tmp_path / "folder.csv").mkdir()
    none: list[int] = []

    assert "cannot be read: No such file" in refusal(tmp_path / "none.parquet").problem
    assert "cannot be read: Is a directory" in refusal(tmp_path / "folder.csv").problem
    assert "is empty" in refusal(tmp_path / "empty.csv").problem
    assert "has no rows" in refusal(tmp_path / "header.csv").problem
    no_rows = write(age=none, income=none, bad=none, home=none)
    assert "has no rows" in refusal(no_rows).problem


def test_a_file_that_is_no_table_is_refused(tmp_path: Path, write: Write) -> None:
    whole = write().read_bytes()
    for content in (b"garbage", whole[: len(whole) // 2], b"PAR1"):
        (tmp_path / "rows.parquet").write_bytes(content)
        assert "is not Parquet" in refusal(tmp_path / "rows.parquet").problem
    (tmp_path / "rows.csv").write_text("a,b\n1,2,3\n")
    assert "is not CSV" in refusal(tmp_path / "rows.csv").problem
    (tmp_path / "rows.txt").write_text("a")
    assert "neither .parquet nor .csv" in refusal(tmp_path / "rows.txt").problem
    (tmp_path / "twice.csv").write_text("age,age\n1,2\n")
    assert "more than one column age" in refusal(tmp_path / "twice.csv").problem


def test_an_unlabelled_file_is_refused_with_the_columns_it_has(write: Write) -> None:
    refused = refusal(write(bad=None))

    assert "has no column `bad` (the label)" in refused.problem
    assert refused.remedy == "the columns are: age, income, home"


def test_rows_without_a_label_are_counted(write: Write) -> None:
    assert "2 of 4 rows have no label `bad`" in refusal(write(bad=[0, None, 1, None])).problem


@pytest.mark.parametrize("labels", [[0.0, float("inf"), 0.5, 1.0], [[1], [2], [3], [4]]])
def test_labels_that_are_no_words_and_no_numbers_are_refused(write: Write, labels: list[Any]) -> None:
    assert "the label `bad`" in refusal(write(bad=labels)).problem


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"age": ["a", "b", "c", "d"]}, "column `age` holds string like 'a', input input takes FP32"),
        ({"age": [1.0, None, 2.0, 3.0]}, "column `age` has 1 missing values"),
        ({"age": [1.0, float("nan"), 2.0, 3.0]}, "column `age` has 1 values that are NaN or infinite"),
        ({"age": [1.0, float("inf"), 2.0, 3.0]}, "column `age` has 1 values that are NaN or infinite"),
        ({"age": [1e39, 1.0, 2.0, 3.0]}, "column `age` has values beyond float32"),
        ({"age": [[1], [2], [3], [4, 5]]}, "column `age` has lists of 1 to 2 values"),
        ({"age": [[1], None, [3], [4]]}, "column `age` has 1 missing values"),
        ({"age": None}, "1 columns (income) with 1 values a row do not fill input input FP32[-1, 2]"),
        ({"extra": [1, 2, 3, 4]}, "3 columns (age, income, extra) with 3 values a row do not fill"),
        ({"home": None}, "has no column `home` (a slice)"),
        ({"age": [None, None, None, None]}, "column `age` holds null"),
    ],
)
def test_a_column_that_cannot_be_fed_is_named(write: Write, changes: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(write(**changes)).problem


@pytest.mark.parametrize(
    ("content", "said", "remedy"),
    [
        (b"age;bad\n1,5;0\n", "is not CSV", "separated by `;`"),
        (
            "age,bad\ngr\xfcn,0\n".encode("latin-1"),
            "the text in `age` is not UTF-8",
            "write the file as UTF-8",
        ),
        ("age,bad\n1,0\n".encode("utf-16"), "is not CSV", "it is UTF-16"),
        (b'age,bad\n"1,5",0\n', "holds string like '1,5'", "write numbers with a decimal point"),
    ],
)
def test_what_a_spreadsheet_of_another_country_wrote_is_named(
    tmp_path: Path, content: bytes, said: str, remedy: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    found = refusal(path, columns={"input": ("age",)})
    assert said in found.problem
    assert remedy in found.remedy


def test_a_nullable_column_may_hold_nan_but_never_infinity(write: Write) -> None:
    said = data(columns={"age": {"nullable": True}})

    for empty in (None, float("nan")):
        rows = read(write(age=[1.0, empty, 2.0, 3.0]), said=said)
        assert np.isnan(rows.inputs["input"][1, 0])
    assert "infinite" in refusal(write(age=[1.0, float("inf"), 2.0, 3.0]), said=said).problem
    assert "missing" in refusal(write(income=[1, None, 2, 3]), said=said).problem


def test_whole_numbers_never_wrap_and_fractions_never_round(write: Write) -> None:
    said = data(inputs={"x": "income"})
    x = TensorSpec("x", "INT8", (-1, 1))

    assert "beyond int8" in refusal(write(income=[1, 2, 3, 300]), x, said=said).problem
    assert "beyond int8" in refusal(write(income=[1.0, 2.0, 3.0, 0.5]), x, said=said).problem
    assert (
        "beyond uint8"
        in refusal(write(income=[1, 2, 3, -1]), TensorSpec("x", "UINT8", (-1,)), said=said).problem
    )
    assert read(write(income=[1.0, 2.0, 3.0, 4.0]), x, said=said).inputs["x"].dtype == np.int8


def test_inputs_that_the_model_does_not_have_are_refused_with_those_it_has(write: Write) -> None:
    refused = refusal(write(), said=data(inputs={"image": ("age", "income")}))

    assert isinstance(refused, UnusableData)
    assert refused.remedy == "the model takes: input FP32[-1, 2]"


def test_several_inputs_without_a_word_on_their_columns_are_refused(write: Write) -> None:
    two = TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "FP32", (-1, 1))

    assert "data.inputs must say" in refusal(write(), *two).problem


def test_a_column_the_spec_names_and_the_file_lacks_is_refused_with_those_it_has(write: Write) -> None:
    refused = refusal(write(), said=data(inputs={"input": ("age", "incom")}))

    assert "has no column `incom`" in refused.problem
    assert "age, income, bad, home" in refused.remedy


def test_when_nothing_is_left_to_feed_that_is_said(write: Write) -> None:
    assert "no column is left" in refusal(write(), said=data(ignore=("age", "income"))).problem


def test_equal_rows_have_equal_hashes_and_only_they() -> None:
    hashes = hash_rows({"x": np.array([[1.0, 0.0], [1.0, -0.0], [0.0, 1.0], [2.0, 0.0]], np.float32)})
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 3

    text = hash_rows({"t": np.array([["ab", "c"], ["a", "bc"], ["ab", "c"]], dtype=object)})
    assert text[0] == text[2] != text[1]


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.floats(-2, 2, width=16)
    )
)
def test_hashes_tell_rows_apart_exactly_as_comparing_them_does(rows: np.ndarray[Any, Any]) -> None:
    hashes = hash_rows({"x": rows})

    equal = (rows[:, None] == rows[None, :]).all(axis=2)
    np.testing.assert_array_equal(hashes[:, None] == hashes[None, :], equal)
