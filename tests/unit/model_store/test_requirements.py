"""What of a logged model's requirements becomes its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.export.mlmodel import LoggedModel
from model_store.export.requirements import locked, logged_python, requirements

CONDA = """\
channels: [conda-forge]
dependencies:
  - python=3.10.4
  - pip<=23
  - scikit-learn=1.4.2
  - conda-forge::pandas>=2
  - pip:
      - mlflow==2.11
      - shap
"""


def logged(folder: Path, **files: str) -> LoggedModel:
    for name, content in files.items():
        folder.joinpath(name.replace("_yaml", ".yaml").replace("_txt", ".txt")).write_text(content)
    flavors = {"python_function": {"python_version": "3.12.1"}}
    return LoggedModel(folder, flavors, None, {"mlflow_version": "3.17.2"})


def test_condas_own_versions_become_pips(tmp_path: Path) -> None:
    model = logged(tmp_path, conda_yaml=CONDA)
    assert requirements(model) == ["scikit-learn==1.4.2", "pandas>=2", "mlflow==2.11", "shap"]
    assert logged_python(model) == "3.10"


def test_requirements_txt_comes_before_what_was_derived_from_it(tmp_path: Path) -> None:
    model = logged(
        tmp_path, conda_yaml=CONDA, requirements_txt="# mine\nshap\n\n", python_env_yaml="python: 3.9.1\n"
    )
    assert requirements(model) == ["shap"]
    assert logged_python(model) == "3.9"


def test_without_files_mlmodel_says_the_python(tmp_path: Path) -> None:
    assert requirements(logged(tmp_path)) == []
    assert logged_python(logged(tmp_path)) == "3.12"


def test_a_lock_has_hashes_and_the_mlflow_that_saved_the_model(tmp_path: Path) -> None:
    lock = locked(logged(tmp_path, requirements_txt="six==1.17.0\n"), "3.11").decode()
    assert "six==1.17.0 \\\n    --hash=sha256:" in lock
    assert "mlflow-skinny==3.17.2 \\" in lock
    assert "pandas==" in lock
    assert "://" not in lock
    assert {path.name for path in tmp_path.iterdir()} == {"requirements.txt"}


def test_what_contradicts_itself_is_refused_in_uvs_own_words(tmp_path: Path) -> None:
    model = logged(tmp_path, requirements_txt="six==1.17.0\nsix==1.16.0\n")
    with pytest.raises(Permanent, match=r"six==1\.16\.0.*unsatisfiable") as refused:
        locked(model, "3.11")
    assert "pip_requirements" in refused.value.remedy
