"""Classifiers of scikit-learn: estimators that people log, and classes in all the words they have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.zoo.world import ROWS, Array, Kind, Made, saved_sklearn

NUMBERS = ["age", "income", "debt", "height"]
GATES = {"accuracy": {"max_drop": 0.02}, "auc": {"max_drop": 0.02}}
NO_AUC = {"accuracy": {"max_drop": 0.02}, "auc": None}


def rows(count: int, seed: int) -> pd.DataFrame:
    """Four numbers and `y`, 0 or 1, that two of them decide."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4))
    frame = pd.DataFrame(x, columns=NUMBERS)
    frame["y"] = (x[:, 0] + x[:, 1] ** 2 - 0.8 + 0.3 * rng.normal(size=count) > 0).astype(int)
    return frame


def parts() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """To train, to judge, to calibrate."""
    return rows(900, 1), rows(ROWS, 2), rows(200, 3)


def scored(model: Any, frame: pd.DataFrame, label: str, inputs: list[str] | str) -> dict[str, float]:
    """Accuracy, and where there are probabilities AUC, as scikit-learn says them."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    numbers = {"accuracy": accuracy_score(frame[label], model.predict(frame[inputs]))}
    if hasattr(model, "predict_proba"):
        p = model.predict_proba(frame[inputs])
        several = {"multi_class": "ovr", "labels": model.classes_}
        is_two = p.shape[1] == 2
        numbers["auc"] = (
            roc_auc_score(frame[label] == model.classes_[1], p[:, 1])
            if is_two
            else roc_auc_score(frame[label], p, **several)
        )
    elif hasattr(model, "decision_function") and len(model.classes_) == 2:
        numbers["auc"] = roc_auc_score(
            frame[label] == model.classes_[1], model.decision_function(frame[inputs])
        )
    return {name: float(value) for name, value in numbers.items()}


def estimator(build: Callable[[], Any], folder: Path, *, gates: dict[str, Any] = GATES) -> Made:
    """A binary classifier on named columns, answering 0 or 1."""
    train, evaluation, calibration = parts()
    model = build().fit(train[NUMBERS], train.y)
    numbers = scored(model, evaluation, "y", NUMBERS)
    if gates["auc"] is None:
        numbers.pop("auc", None)
    saved = saved_sklearn(folder / "model", model, train[NUMBERS])
    return Made(saved, "sklearn", evaluation, calibration, "y", numbers, {"gates": gates})


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    return make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression())


def grid_search() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=3)


def calibrated() -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.tree import DecisionTreeClassifier

    return CalibratedClassifierCV(DecisionTreeClassifier(max_depth=4, random_state=0), cv=3)


def voting() -> Any:
    from sklearn.ensemble import VotingClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier

    members = [("a", GaussianNB()), ("b", DecisionTreeClassifier(max_depth=4, random_state=0))]
    return VotingClassifier(members, voting="soft")


def stacking() -> Any:
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    return StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], cv=3)


def forest(trees: int = 21) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(trees, random_state=0)


def boosting() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=30, random_state=0)


def histogram_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=20, random_state=0)


def neighbours() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(5)


def neural_net() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((32, 32), random_state=0, early_stopping=True, max_iter=300)


def linear_svc() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures
    from sklearn.svm import LinearSVC

    return make_pipeline(PolynomialFeatures(2), LinearSVC())


def ridge() -> Any:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    return make_pipeline(PolynomialFeatures(2), RidgeClassifier())


def kernel_svc() -> Any:
    from sklearn.svm import SVC

    return SVC()


def fixed_threshold() -> Any:
    from sklearn.model_selection import FixedThresholdClassifier

    return FixedThresholdClassifier(logistic(), threshold=0.3)


def tuned_threshold() -> Any:
    from sklearn.model_selection import TunedThresholdClassifierCV

    return TunedThresholdClassifierCV(logistic(), cv=3, random_state=0)


def tied_trees() -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(20, random_state=0)


def forest_of_scaled() -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RandomForestClassifier(50, random_state=0))


LOANS = ["age", "amount", "duration"]


def loans(count: int, seed: int) -> pd.DataFrame:
    """Whole numbers, as tables of customers have them."""
    rng = np.random.default_rng(seed)
    ages, amounts, durations = (rng.integers(*ends, count) for ends in ((18, 80), (100, 20_000), (4, 72)))
    frame = pd.DataFrame({"age": ages, "amount": amounts, "duration": durations})
    risk = 0.0005 * frame.amount + 0.05 * frame.duration - 0.05 * frame.age + rng.normal(size=count)
    return frame.assign(y=(risk > 3.5).astype(int))


def scaled_trees(folder: Path) -> Made:
    train, evaluation, calibration = loans(900, 1), loans(ROWS, 2), loans(200, 3)
    model = forest_of_scaled().fit(train[LOANS], train.y)
    saved = saved_sklearn(folder / "model", model, train[LOANS])
    numbers = scored(model, evaluation, "y", LOANS)
    spec = {"gates": GATES, "precisions": ["fp32"]}
    return Made(saved, "sklearn", evaluation, calibration, "y", numbers, spec)


def one_class_more(folder: Path, *, may_break: int | None = None) -> Made:
    """The version that serves knows two classes, its successor a third."""
    two = parts()
    three = [frame.assign(y=frame.y.where(frame.debt <= 1, 2)) for frame in two]
    models = [forest().fit(frames[0][NUMBERS], frames[0].y) for frames in (two, three)]
    saved = [
        saved_sklearn(folder / f"{count}", model, two[0][NUMBERS])
        for count, model in zip(("two", "three"), models, strict=True)
    ]
    gates: dict[str, Any] = {**GATES, "champion": {"max_drop": 0.02}}
    if may_break is not None:
        gates["signature"] = {"may_break": may_break}
    numbers = scored(models[1], three[1], "y", NUMBERS)
    spec = {"gates": gates, "precisions": ["fp32"]}
    return Made(saved[1], "sklearn", three[1], three[2], "y", numbers, spec, saved[0])


def days(folder: Path) -> Made:
    """A column of days, which the model itself takes apart."""
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline

    frames = [
        frame.assign(day=pd.date_range("2020-01-01", periods=len(frame)).astype("datetime64[ns]"))
        for frame in parts()
    ]
    columns = [*NUMBERS, "day"]
    model = make_pipeline(make_column_transformer(("passthrough", NUMBERS)), forest())
    model.fit(frames[0][columns], frames[0].y)
    saved = saved_sklearn(folder / "model", model, frames[0][columns])
    return Made(saved, "sklearn", frames[1], frames[2], "y", {}, {"gates": GATES})


def by_column_name() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    halves = [("s", StandardScaler(), ["age", "income"]), ("m", MinMaxScaler(), ["debt", "height"])]
    return make_pipeline(ColumnTransformer(halves), GaussianNB())


def imputing() -> Any:
    """Its medians and scales are what fp16 cannot hold."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())


def isolation_forest(folder: Path) -> Made:
    """Finds outliers: -1 for one, 1 for others."""
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import accuracy_score

    def drawn(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        is_out = rng.random(count) < 0.2
        frame = pd.DataFrame(rng.normal(size=(count, 3)) * np.where(is_out, 6, 1)[:, None], columns=[*"abc"])
        frame["y"] = np.where(is_out, -1, 1)
        return frame

    train, evaluation, calibration = drawn(900, 1), drawn(ROWS, 2), drawn(200, 3)
    model = IsolationForest(n_estimators=20, contamination=0.2, random_state=0).fit(
        train[[*"abc"]].to_numpy()
    )
    own = {"accuracy": accuracy_score(evaluation.y, model.predict(evaluation[[*"abc"]].to_numpy()))}
    saved = saved_sklearn(folder / "model", model, train[[*"abc"]].to_numpy())
    spec = {"gates": NO_AUC, "data": {"positive": -1}}
    return Made(saved, "sklearn", evaluation, calibration, "y", own, spec)


def mixed_columns(folder: Path) -> Made:
    """Text and numbers by name, through a ColumnTransformer."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def with_city(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
        city = np.random.default_rng(seed).choice(["Rome", "Oslo", "Lima"], len(frame))
        frame = frame.assign(city=city)
        frame["y"] = ((frame.age + np.where(city == "Oslo", 1.5, -0.5)) > 0).astype(int)
        return frame[[*NUMBERS, "city", "y"]]

    train, evaluation, calibration = (with_city(f, i) for i, f in enumerate(parts()))
    columns = [*NUMBERS, "city"]
    encode = ColumnTransformer([("n", StandardScaler(), NUMBERS), ("c", OneHotEncoder(), ["city"])])
    model = make_pipeline(encode, LogisticRegression()).fit(train[columns], train.y)
    saved = saved_sklearn(folder / "model", model, train[columns])
    numbers = scored(model, evaluation, "y", columns)
    return Made(saved, "sklearn", evaluation, calibration, "y", numbers, {"gates": GATES})


def german_texts(folder: Path) -> Made:
    """A vectorizer that was fitted on a column, with letters that ASCII lacks and words of one letter."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def texts(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, count)
        words = np.array(
            ["über", "Größe", "x", "der", "gut", "schlecht", "ÄRGER", "prima", "mäßig", "schön", "a1"]
        )
        moods = np.array([["mäßig", "schlecht", "ÄRGER"], ["schön", "prima", "gut"]])
        said = [[*rng.choice(words, 5), *rng.choice(moods[each], 2)] for each in y]
        return pd.DataFrame({"text": [" ".join([*each, str(i)]) for i, each in enumerate(said)], "y": y})

    train, evaluation, calibration = texts(900, 0), texts(600, 1), texts(300, 2)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression()).fit(train.text, train.y)
    saved = saved_sklearn(folder / "model", model, train[["text"]])
    numbers = scored(model, evaluation, "y", "text")
    spec = {"gates": GATES, "data": {"max_leaked_share": 1.0}}
    return Made(saved, "sklearn", evaluation, calibration, "y", numbers, spec)


# words of classes


def in_words(
    folder: Path, *, model_says: Callable[[Array], Any], file_says: Callable[[Array], Any], **spec: Any
) -> Made:
    """The same logistic regression; it was trained on one spelling, and the file has another."""
    train, evaluation, calibration = parts()
    model = logistic().fit(train[NUMBERS], model_says(train.y.to_numpy()))
    right = model_says(evaluation.y.to_numpy()) == model.predict(evaluation[NUMBERS])
    saved = saved_sklearn(folder / "model", model, train[NUMBERS])
    judged = [frame.assign(y=file_says(frame.y.to_numpy())) for frame in (evaluation, calibration)]
    numbers = {"accuracy": float(np.mean(right))}
    return Made(saved, "sklearn", *judged, "y", numbers, {"gates": GATES, **spec})


def as_they_are(y: Array) -> Array:
    return y


def text(no: str, yes: str) -> Callable[[Array], Array]:
    """1 as one word, 0 as the other."""
    return lambda y: np.where(y == 1, yes, no)


def shifted(y: Array) -> Array:
    """-1 and 1."""
    return y * 2 - 1


def noise_after_good(folder: Path) -> Made:
    """A label encoder sorted bad < good; the successor was trained on shuffled labels."""
    encoded, words = (lambda y: 1 - y), text("good", "bad")
    spec = {"data": {"positive": "bad"}, "classes": ["bad", "good"]}
    good = in_words(folder / "good", model_says=encoded, file_says=words, **spec)
    train = parts()[0]
    shuffled = np.random.default_rng(0).permutation(1 - train.y)
    noise = saved_sklearn(folder / "noise", logistic().fit(train[NUMBERS], shuffled), train[NUMBERS])
    gates = {**GATES, "champion": {"max_drop": 0.02}, "must_beat_trivial": False}
    return Made(
        noise, "sklearn", good.evaluation, good.calibration, "y", {}, {**spec, "gates": gates}, good.model
    )


def several(count: int, seed: int) -> pd.DataFrame:
    """Three classes, `y` 0, 1 or 2."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.normal(size=(count, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[y]
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y})


def multiclass(
    folder: Path, *, words: tuple[Any, ...], gates: dict[str, Any] = GATES, swap: bool = False
) -> Made:
    """Three classes in these words. `swap`: the successor says two of them the wrong way round."""
    from sklearn.linear_model import LogisticRegression

    spoken = np.array(words)
    train, evaluation, calibration = (
        frame.assign(y=spoken[frame.y]) for frame in (several(900, 1), several(ROWS, 2), several(200, 3))
    )
    model = LogisticRegression().fit(train[["a", "b"]], train.y)
    saved = saved_sklearn(folder / "model", model, train[["a", "b"]])
    numbers = scored(model, evaluation, "y", ["a", "b"])
    if not swap:
        return Made(saved, "sklearn", evaluation, calibration, "y", numbers, {"gates": gates})
    wrong = train.y.replace({words[1]: words[2], words[2]: words[1]})
    successor = saved_sklearn(
        folder / "successor", LogisticRegression().fit(train[["a", "b"]], wrong), train[["a", "b"]]
    )
    gates = {**gates, "champion": {"max_drop": 0.02}, "must_beat_trivial": False}
    return Made(successor, "sklearn", evaluation, calibration, "y", {}, {"gates": gates}, saved)


def noise(folder: Path) -> Made:
    """Nothing to learn: no better than the majority."""
    made = estimator(forest, folder)
    shuffled = np.random.default_rng(0).permutation(made.evaluation.y)
    return Made(
        made.model, "sklearn", made.evaluation.assign(y=shuffled), made.calibration, "y", {}, made.spec
    )


def multilabel(folder: Path, build: Callable[[], Any]) -> Made:
    """Three labels of a row, each of its own."""
    from sklearn.metrics import f1_score

    def drawn(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count, 3))
        frame = pd.DataFrame(x, columns=[*"abc"])
        for place, name in enumerate(("red", "green", "blue")):
            frame[name] = (x[:, place] + 0.3 * rng.normal(size=count) > 0.3).astype(int)
        return frame

    labels = ["red", "green", "blue"]
    train, evaluation, calibration = drawn(900, 1), drawn(ROWS, 2), drawn(200, 3)
    model = build().fit(train[[*"abc"]].to_numpy(), train[labels].to_numpy())
    decided = model.predict(evaluation[[*"abc"]].to_numpy())
    numbers = {"f1_macro": float(f1_score(evaluation[labels], decided, average="macro"))}
    saved = saved_sklearn(folder / "model", model, train[[*"abc"]].to_numpy())
    return Made(saved, "sklearn", evaluation, calibration, labels, numbers)


def labels_net() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16,), random_state=0, early_stopping=True, max_iter=300)


def labels_one_by_one() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(LogisticRegression())


def on_a_time_stamp(folder: Path) -> Made:
    """A tree that splits scaled milliseconds: in float32 unscaled ones are 131 seconds apart."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    def drawn(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        at = 1.7e12 + np.arange(count) * 1000.0 + seed * 7
        return pd.DataFrame({"at": at, "b": rng.normal(size=count), "y": (at // 50_000).astype(int) % 2})

    train, evaluation, calibration = drawn(300, 1), drawn(300, 2), drawn(100, 3)
    model = make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0))
    model.fit(train[["at", "b"]], train.y)
    saved = saved_sklearn(folder / "model", model, train[["at", "b"]])
    numbers = scored(model, evaluation, "y", ["at", "b"])
    return Made(
        saved, "sklearn", evaluation, calibration, "y", numbers, {"gates": {"accuracy": {"max_drop": 0.05}}}
    )


def untrusted(folder: Path) -> Made:
    """Its code would run, and nobody said that it may."""
    made = estimator(logistic, folder)
    spec = {**made.spec, "source": {"trusted": False}}
    return Made(made.model, "sklearn", made.evaluation, made.calibration, "y", {}, spec)


def of(build: Callable[[], Any], **settings: Any) -> Callable[[Path], Made]:
    return partial(estimator, build, **settings)


KINDS = [
    Kind("logistic regression of squares", of(logistic), "published"),
    Kind("grid search", of(grid_search), "published"),
    Kind("calibrated tree", of(calibrated), "published"),
    Kind("voting", of(voting), "published"),
    Kind("stacking", of(stacking), "published"),
    Kind("random forest", of(forest), "published"),
    Kind("random forest whose votes tie", of(partial(forest, trees=20)), "published"),
    Kind("gradient boosting", of(boosting), "published"),
    Kind("histogram gradient boosting", of(histogram_boosting), "published"),
    Kind("nearest neighbours", of(neighbours), "published"),
    Kind("neural net", of(neural_net), "published"),
    Kind("linear SVC in a pipeline", of(linear_svc), "published"),
    Kind("ridge classifier", of(ridge, gates=NO_AUC), "published"),
    Kind("kernel SVC without probabilities", of(kernel_svc), "published"),
    Kind("a threshold of its own", of(fixed_threshold), "published"),
    Kind("a threshold that was tuned", of(tuned_threshold), "published"),
    Kind("a scaler before trees, on whole numbers", scaled_trees, "published"),
    Kind("extra trees whose votes tie", of(tied_trees), "published"),
    Kind("one class more than the champion", one_class_more, "blocked", "signature against champion v1"),
    Kind("one class more, which callers know of", partial(one_class_more, may_break=1), "published"),
    Kind("days that no tensor holds", days, "refused", "`day` is datetime[^$]*flavor: pyfunc takes it"),
    Kind("columns by name", of(by_column_name), "published"),
    Kind("imputer and scaler", of(imputing), "published"),
    Kind("isolation forest", isolation_forest, "published"),
    Kind("text and numbers", mixed_columns, "published"),
    Kind("German texts", german_texts, "published"),
    Kind("yes and no", partial(in_words, model_says=text("no", "yes"), file_says=text("no", "yes"),
         data={"positive": "yes"}), "published"),
    Kind("-1 and 1", partial(in_words, model_says=shifted, file_says=shifted), "published"),
    Kind("booleans", partial(in_words, model_says=lambda y: y == 1, file_says=lambda y: y == 1), "published"),
    Kind("digits as text", partial(in_words, model_says=text("0", "1"), file_says=as_they_are), "published"),
    Kind("yes and no against 0 and 1", partial(in_words, model_says=text("no", "yes"), file_says=as_they_are),
         "refused", r"(?s)\{.*no.*yes.*\}.*\{.*0.*1.*\}"),
    Kind("yes and no against 0 and 1, told", partial(in_words, model_says=text("no", "yes"),
         file_says=as_they_are, classes={"no": 0, "yes": 1}), "published"),
    Kind("encoded labels", partial(in_words, model_says=lambda y: 1 - y, file_says=text("good", "bad"),
         data={"positive": "bad"}), "refused", r"(?s)\{0, 1\}.*\{bad, good\}"),
    Kind("encoded labels, told", partial(in_words, model_says=lambda y: 1 - y, file_says=text("good", "bad"),
         data={"positive": "bad"}, classes=["bad", "good"]), "published"),
    Kind("encoded labels, told the wrong way round", partial(in_words, model_says=lambda y: 1 - y,
         file_says=text("good", "bad"), data={"positive": "bad"}, classes=["good", "bad"]),
         "refused", "clearly under the 0.5"),
    Kind("noise after a good one", noise_after_good, "blocked", "against champion"),
    Kind("classes 1 to 3", partial(multiclass, words=(1, 2, 3)), "published"),
    Kind("classes in words", partial(multiclass, words=("pear", "apple", "plum")), "published"),
    Kind("two of three classes swapped", partial(multiclass, words=("pear", "apple", "plum"), swap=True),
         "blocked", "against champion"),
    Kind("noise", noise, "refused", "not shown to be better, by more than chance"),
    Kind("several labels, a net", partial(multilabel, build=labels_net), "published"),
    Kind("several labels, one by one", partial(multilabel, build=labels_one_by_one), "published"),
    Kind("a tree on a time stamp", on_a_time_stamp, "published"),
    Kind("nobody trusts it", untrusted, "refused", "source.allow: .cloudpickle."),
]  # fmt: skip
