"""From the raw credit table to the four files the demo uses: train, calibration, evaluation, traffic.

Every file has the same columns: the features (float32, in `FEATURES` order), the label `bad` (0 or 1) and
the raw `Home` and `Job` by which the gates slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from model_store.errors import Permanent
from model_store.installation import ROOT

SOURCE = ROOT / "examples" / "credit_risk" / "credit_data.csv"
LABEL = "bad"
SLICES = ("Home", "Job")
UNKNOWN = "unknown"

NUMBERS = ("Seniority", "Time", "Age", "Expenses", "Income", "Assets", "Debt", "Amount", "Price")
SOMETIMES_MISSING = ("Income", "Assets", "Debt")
# Named here, not read from the data: a value that a new file lacks must not shift the model's inputs.
CATEGORIES = {
    "Home": ("ignore", "other", "owner", "parents", "priv", "rent"),
    "Marital": ("divorced", "married", "separated", "single", "widow"),
    "Records": ("no", "yes"),
    "Job": ("fixed", "freelance", "others", "partime"),
}
FEATURES: tuple[str, ...] = (
    *NUMBERS,
    *(f"{name}_missing" for name in SOMETIMES_MISSING),
    *(f"{name}_{value}" for name, values in CATEGORIES.items() for value in values),
)

SHARES = {"train": 0.55, "evaluation": 0.30, "calibration": 0.075}
"""The rest of the rows is the traffic."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the four parquet files are."""

    train: Path
    calibration: Path
    evaluation: Path
    traffic: Path

    @classmethod
    def under(cls, folder: Path) -> Parts:
        """The paths in `folder`, whether or not the files exist yet."""
        return cls(
            *(folder / f"{name}.parquet" for name in ("train", "calibration", "evaluation", "traffic"))
        )


def prepare(folder: Path, source: Path = SOURCE, *, seed: int = 7) -> Parts:
    """Write the four parts into `folder`; the same source and seed give the same rows in the same order.

    Raises `Permanent` when the source is not the table it should be.
    """
    raw = _read(source)
    rows = _split(raw, seed=seed)
    medians = raw.loc[rows["train"], list(NUMBERS)].median()
    table = featurize(raw, medians)
    parts = Parts.under(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, index in rows.items():
        table.loc[index].reset_index(drop=True).to_parquet(getattr(parts, name), index=False)
    return parts


def featurize(raw: pd.DataFrame, medians: pd.Series) -> pd.DataFrame:
    """Features, label and slices of raw rows.

    A missing number becomes the training rows' median and a 1 in its `_missing` feature; a missing category
    is 0 in all of its features and `unknown` as a slice.
    """
    columns: dict[str, pd.Series] = {name: raw[name].fillna(medians[name]) for name in NUMBERS}
    columns |= {f"{name}_missing": raw[name].isna() for name in SOMETIMES_MISSING}
    columns |= {
        f"{name}_{value}": raw[name].eq(value).fillna(False)
        for name, values in CATEGORIES.items()
        for value in values
    }
    table = pd.DataFrame(columns).astype("float32")
    table[LABEL] = raw["Status"].eq("bad").astype("int64")
    for name in SLICES:
        table[name] = raw[name].fillna(UNKNOWN)
    return table


def _read(source: Path) -> pd.DataFrame:
    raw = pd.read_csv(source)
    needed = {"Status", *NUMBERS, *CATEGORIES}
    if missing := sorted(needed - set(raw.columns)):
        raise Permanent(
            f"{source} lacks the columns {', '.join(missing)}",
            remedy="restore examples/credit_risk/credit_data.csv from the repository",
        )
    # The table has three pairs of equal applications. Both halves of a pair must not fall into two parts:
    # a calibration row inside the evaluation rows is what the data gate refuses.
    return raw.drop_duplicates(subset=sorted(needed - {"Status"})).reset_index(drop=True)


def _split(raw: pd.DataFrame, *, seed: int) -> dict[str, pd.Index]:
    """Row labels of each part: shuffled within each Status, so that every part has the same share of bad."""
    parts: dict[str, list[pd.Index]] = {name: [] for name in (*SHARES, "traffic")}
    for _, group in raw.groupby("Status"):
        shuffled = group.sample(frac=1, random_state=seed).index
        start = 0
        for name, share in SHARES.items():
            end = start + round(share * len(shuffled))
            parts[name].append(shuffled[start:end])
            start = end
        parts["traffic"].append(shuffled[start:])
    return {name: pieces[0].append(pieces[1:]).sort_values() for name, pieces in parts.items()}
