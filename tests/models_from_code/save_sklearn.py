"""Trains and saves models by the scikit-learn that is here: `python save_sklearn.py WHICH FOLDER NEEDS`."""

import json
import sys
from pathlib import Path

import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn import datasets, metrics
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def churn():
    """Text and numbers through a ColumnTransformer."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "plan": rng.choice(["basic", "plus", "pro"], 1400),
            "months": rng.uniform(1, 60, 1400),
            "calls": rng.gamma(3, 1, 1400),
        }
    )
    odds = rows.calls - rows.months / 12 - 2.0 * (rows.plan == "pro")
    left = (odds + rng.normal(size=1400) > 0).astype(int)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("n", numbers, ["months", "calls"]), ("t", OneHotEncoder(), ["plan"])])
    x, judged, y, right = train_test_split(rows, left, test_size=0.5, random_state=0)
    model = make_pipeline(columns, LogisticRegression()).fit(x, y)
    score = model.predict_proba(judged)[:, 1]
    numbers = {
        "accuracy": metrics.accuracy_score(right, model.predict(judged)),
        "auc": metrics.roc_auc_score(right, score),
    }
    return model, x, judged, y, right, numbers


def diabetes():
    data = datasets.load_diabetes(as_frame=True)
    x, judged, y, right = train_test_split(data.data, data.target, test_size=0.5, random_state=0)
    model = RandomForestRegressor(20, max_depth=5, random_state=0).fit(x, y)
    return model, x, judged, y, right, {"mae": metrics.mean_absolute_error(right, model.predict(judged))}


if __name__ == "__main__":
    target = Path(sys.argv[2])
    model, x, judged, y, right, numbers = globals()[sys.argv[1]]()
    requirements = json.loads(Path(sys.argv[3]).read_text())
    signature = infer_signature(x, model.predict(x))
    mlflow.sklearn.save_model(
        model,
        target / "model",
        signature=signature,
        pip_requirements=requirements,
        serialization_format="cloudpickle",
    )
    judged.assign(right=right).to_parquet(target / "evaluation.parquet", index=False)
    x.assign(right=y).to_parquet(target / "calibration.parquet", index=False)
    (target / "numbers.json").write_text(json.dumps({name: float(value) for name, value in numbers.items()}))
