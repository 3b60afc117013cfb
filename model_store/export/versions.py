"""With which libraries a model was logged, and whether those here may load it.

scikit-learn promises nothing for estimators of another minor version: they load with a warning, and may
predict something else (scikit-learn's user guide, "Model persistence").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Recorded = Mapping[str, SpecifierSet]

_PICKLES = ("pickle", "cloudpickle")


def recorded_versions(folder: Path, flavor: Mapping[str, Any]) -> dict[str, SpecifierSet]:
    """By distribution: what requirements.txt says, else conda.yaml, else python_env.yaml, else MLmodel."""
    said: dict[str, SpecifierSet] = {}
    if flavor.get("sklearn_version"):
        said["scikit-learn"] = SpecifierSet(f"=={flavor['sklearn_version']}")
    for lines in (_of_python_env(folder), _of_conda(folder), _lines(folder / "requirements.txt")):
        said |= _parsed(lines)
    return said


def other_versions(recorded: Recorded, saved_as: str) -> str:
    """What the model was logged with that is here in too different a version to load it, such as
    `scikit-learn 1.3.2`: scikit-learn of another minor version, or numpy of another major version than what
    pickled it. Empty where it can be loaded here.
    """
    needed = {"scikit-learn": 2, **({"numpy": 1} if saved_as in _PICKLES else {})}
    return ", ".join(
        f"{name} {_plain(recorded[name])}" for name in needed if _is_far(name, recorded, needed[name])
    )


def differing(recorded: Recorded) -> str:
    """The libraries that are here in another version than recorded, or not at all; empty if none is."""
    found = {name: installed(name) for name, said in recorded.items() if said}
    return ", ".join(
        f"{name} {_plain(recorded[name])} ({here or 'not installed'} here)"
        for name, here in sorted(found.items())
        if here is None or not recorded[name].contains(here, prereleases=True)
    )


def installed(distribution: str) -> str | None:
    """The version here, None if there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _is_far(name: str, recorded: Recorded, parts: int) -> bool:
    said, here = recorded.get(name), installed(name)
    return bool(said) and here is not None and not _is_close(said or SpecifierSet(), Version(here), parts)


def _is_close(said: SpecifierSet, here: Version, parts: int) -> bool:
    """Whether `here` is what was recorded, or equal to it in its first parts."""
    if said.contains(here, prereleases=True):
        return True
    exact = [_version(one.version) for one in said if one.operator in ("==", "===")]
    return any(one is not None and one.release[:parts] == here.release[:parts] for one in exact)


def _version(text: str) -> Version | None:
    try:
        return Version(text.removesuffix(".*"))
    except InvalidVersion:
        return None


def _plain(said: SpecifierSet) -> str:
    """`1.4.2` for `==1.4.2`, else as it was written."""
    return str(said).removeprefix("==")


def _parsed(lines: Iterable[str]) -> dict[str, SpecifierSet]:
    found = {}
    for line in lines:
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # options, paths, addresses
            continue
        if requirement.specifier:
            found[canonicalize_name(requirement.name)] = requirement.specifier
    return {str(name): said for name, said in found.items()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_python_env(folder: Path) -> list[str]:
    return [str(line) for line in _yaml(folder / "python_env.yaml").get("dependencies") or []]


def _of_conda(folder: Path) -> list[str]:
    """conda writes `scikit-learn=1.4.2`, and pip's own list below it."""
    listed = _yaml(folder / "conda.yaml").get("dependencies") or []
    own = [line.replace("=", "==", 1) for line in listed if isinstance(line, str) and "==" not in line]
    pip = [line for entry in listed if isinstance(entry, dict) for line in entry.get("pip") or []]
    return [*own, *map(str, pip)]
