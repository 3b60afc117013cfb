"""What the zoo is made of: a model as MLflow saves it, its rows, its spec, and what must become of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from model_store.check import Result

Array = np.ndarray[Any, Any]
Ending = Literal["published", "blocked", "refused"]
Spec = dict[str, Any]

# One point in a hundred wants 300 rows of a model that changes nothing; all have at least 600.
ROWS = 700


@dataclass(frozen=True)
class Made:
    """One model on disk. `numbers`: by metric, what the framework itself says on the evaluation rows.

    `model`: the folder that MLflow wrote. `flavor`: None where
    the spec leaves that to MLflow. `spec`: what differs from `spec_of`'s. `champion`: the folder of
    the version that serves.
    """

    model: Path
    flavor: str | None
    evaluation: pd.DataFrame
    calibration: pd.DataFrame
    label: str | list[str]
    numbers: Mapping[str, float] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    champion: Path | None = None


@dataclass(frozen=True)
class Kind:
    """One model, or one trap. `make` gets an empty folder. `says`: what the reason holds, as a pattern."""

    name: str
    make: Callable[[Path], Made]
    ending: Ending
    says: str = ""


def spec_of(made: Made, home: Path) -> Spec:
    """A plain spec with the default precisions; files are written below `home`."""
    paths = {}
    for role in ("evaluation", "calibration"):
        path = home / f"{role}.parquet"
        getattr(made, role).to_parquet(path, index=False)
        paths[role] = str(path)
    plain: Spec = {
        "model": "animal",
        "source": {"flavor": made.flavor, "trusted": made.flavor == "sklearn"},
        "data": {**paths, "label": made.label, "min_rows": 100},
        "targets": ["onnxruntime"],
        "prefer": "order",
        "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
    }
    return _merged(plain, made.spec)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Spec:
    result = dict(one)
    for key, value in other.items():
        known = result.get(key)
        is_both = isinstance(known, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(known, value) if is_both else value  # type: ignore[arg-type]
    return result


def checked(made: Made, home: Path) -> Result:
    """Through the stages of the build, as `slipway check` runs them."""
    from model_store.check import CANDIDATE, CHAMPION, FolderVersions, check, release_champion
    from model_store.release_spec import ReleaseSpec
    from model_store.stages.base import BuildContext
    from model_store.storage.store import Store
    from model_store.types import ModelRef

    spec = ReleaseSpec.model_validate(spec_of(made, home))
    versions = FolderVersions({CHAMPION: made.champion or made.model, CANDIDATE: made.model})
    store = Store(home / "store")
    if made.champion is not None:
        champion = BuildContext(store, versions, spec, ModelRef(spec.model, CHAMPION), home)
        release_champion(champion, versions)
    return check(BuildContext(store, versions, spec, ModelRef(spec.model, CANDIDATE), home))


def saved_sklearn(folder: Path, model: Any, example: Any, **settings: Any) -> Path:
    """As `mlflow.sklearn.save_model` writes it, with the signature inferred from an example."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    with warnings.catch_warnings():
        # MLflow hints that whole numbers cannot be missing. As an error the hint ends in no signature at all.
        warnings.simplefilter("ignore")
        signature = infer_signature(example, model.predict(example))
    settings = {"serialization_format": "cloudpickle", **settings}
    mlflow.sklearn.save_model(model, str(folder), signature=signature, pip_requirements=[], **settings)
    return folder


def saved_onnx(folder: Path, model: Any) -> Path:
    """An ONNX version without a signature, as many log it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
    return folder


def asked_onnx(model: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The answers of onnxruntime itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
