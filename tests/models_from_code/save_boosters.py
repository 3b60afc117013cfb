"""Trains and saves what the documentation of the three libraries and MLflow's examples of them have:
`python save_boosters.py WHICH FOLDER`. Runs where these libraries are, and says what they answer themselves.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn import datasets, metrics
from sklearn.model_selection import train_test_split

warnings.simplefilter("ignore")


def rows(load, names=None):
    """As a table whose columns have the data set's names, spaces included; half is kept to judge by."""
    data = load(as_frame=True)
    table = data.data.set_axis(names or data.data.columns, axis=1)
    return train_test_split(table, data.target, test_size=0.5, random_state=0)


def xgb_classifier(folder):
    """XGBoost's README: "Python package, scikit-learn interface"."""
    import mlflow.xgboost
    from xgboost import XGBClassifier

    x, judged, y, right = rows(datasets.load_breast_cancer)
    model = XGBClassifier(n_estimators=20, max_depth=3, learning_rate=0.5, objective="binary:logistic")
    model.fit(x, y)
    mlflow.xgboost.save_model(model, folder / "model", **settings(x, model.predict(x)))
    return judged, right, x, y, binary(right, model.predict(judged), model.predict_proba(judged)[:, 1])


def xgb_native(folder):
    """MLflow's examples/xgboost/xgboost_native: a Booster by xgb.train, of several classes."""
    import mlflow.xgboost
    import xgboost as xgb

    x, judged, y, right = rows(datasets.load_digits)
    parameters = {"objective": "multi:softprob", "num_class": 10, "learning_rate": 0.3, "seed": 42}
    model = xgb.train(parameters, xgb.DMatrix(x, y), 20)
    said = model.predict(xgb.DMatrix(judged))
    mlflow.xgboost.save_model(model, folder / "model", **settings(x, model.predict(xgb.DMatrix(x))))
    return judged, right, x, y, several(right, said)


def xgb_regressor(folder):
    """MLflow's examples/xgboost/xgboost_sklearn."""
    import mlflow.xgboost
    from xgboost import XGBRegressor

    x, judged, y, right = rows(datasets.load_diabetes)
    model = XGBRegressor(n_estimators=20, reg_lambda=1, gamma=0, max_depth=3).fit(x, y)
    mlflow.xgboost.save_model(model, folder / "model", **settings(x, model.predict(x)))
    return judged, right, x, y, {"mae": metrics.mean_absolute_error(right, model.predict(judged))}


def xgb_ranker(folder):
    """XGBoost's documentation, "Learning to rank": an objective that no converter knows."""
    import mlflow.xgboost
    from xgboost import XGBRanker

    x, judged, y, right = rows(datasets.load_diabetes)
    group = np.repeat(np.arange(17), 13)
    model = XGBRanker(n_estimators=20, lambdarank_num_pair_per_sample=8, objective="rank:ndcg")
    model.fit(x, pd.qcut(y, 5, labels=False), qid=group)
    mlflow.xgboost.save_model(model, folder / "model", **settings(x, model.predict(x)))
    judged = judged.assign(group=group)
    right = pd.Series(pd.qcut(right, 5, labels=False), judged.index)
    return judged, right, x.assign(group=group), y, {}


def lgbm_classifier(folder):
    """MLflow's examples/lightgbm/lightgbm_sklearn, with classes in words."""
    import mlflow.lightgbm
    from lightgbm import LGBMClassifier

    x, judged, y, right = rows(datasets.load_breast_cancer, [f"f{n}" for n in range(30)])
    y, right = (each.map({0: "malignant", 1: "benign"}) for each in (y, right))
    model = LGBMClassifier(n_estimators=20, verbose=-1).fit(x, y)
    pickled = {"serialization_format": "cloudpickle", **settings(x, model.predict(x))}
    mlflow.lightgbm.save_model(model, folder / "model", **pickled)
    said = model.predict_proba(judged)[:, list(model.classes_).index("malignant")]
    return judged, right, x, y, binary(right, model.predict(judged), said, yes="malignant")


def lgbm_native(folder):
    """MLflow's examples/lightgbm/lightgbm_native: a Booster by lgb.train, of two classes."""
    import lightgbm as lgb
    import mlflow.lightgbm

    x, judged, y, right = rows(datasets.load_breast_cancer, [f"f{n}" for n in range(30)])
    parameters = {"objective": "binary", "metric": "binary_logloss", "learning_rate": 0.1, "verbose": -1}
    model = lgb.train(parameters, lgb.Dataset(x, label=y), 20)
    mlflow.lightgbm.save_model(model, folder / "model", **settings(x, model.predict(x)))
    said = model.predict(judged)
    return judged, right, x, y, binary(right, said > 0.5, said)


def cat_classifier(folder):
    """CatBoost's README: CatBoostClassifier."""
    import mlflow.catboost
    from catboost import CatBoostClassifier

    x, judged, y, right = rows(datasets.load_breast_cancer)
    model = CatBoostClassifier(
        iterations=20, learning_rate=0.5, depth=3, verbose=False, allow_writing_files=False
    )
    model.fit(x, y)
    mlflow.catboost.save_model(model, folder / "model", **settings(x, model.predict(x)))
    return judged, right, x, y, binary(right, model.predict(judged), model.predict_proba(judged)[:, 1])


def cat_regressor(folder):
    """CatBoost's documentation: CatBoostRegressor."""
    import mlflow.catboost
    from catboost import CatBoostRegressor

    x, judged, y, right = rows(datasets.load_diabetes)
    model = CatBoostRegressor(
        iterations=40, learning_rate=0.3, depth=3, verbose=False, allow_writing_files=False
    )
    model.fit(x, y)
    mlflow.catboost.save_model(model, folder / "model", **settings(x, model.predict(x)))
    return judged, right, x, y, {"mae": metrics.mean_absolute_error(right, model.predict(judged))}


def settings(x, said):
    requirements = json.loads(Path(sys.argv[3]).read_text())
    return {"signature": infer_signature(x, said), "pip_requirements": requirements}


def binary(right, said, score, yes=1):
    return {
        "accuracy": metrics.accuracy_score(right, said),
        "auc": metrics.roc_auc_score(right == yes, score),
    }


def several(right, said):
    return {
        "accuracy": metrics.accuracy_score(right, said.argmax(axis=1)),
        "auc": metrics.roc_auc_score(right, said, multi_class="ovr"),
    }


if __name__ == "__main__":
    target = Path(sys.argv[2])
    judged, right, x, y, numbers = globals()[sys.argv[1]](target)
    judged.assign(right=right).to_parquet(target / "evaluation.parquet", index=False)
    x.assign(right=y).to_parquet(target / "calibration.parquet", index=False)
    (target / "numbers.json").write_text(json.dumps({name: float(value) for name, value in numbers.items()}))
