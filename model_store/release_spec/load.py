"""Spec files: one, or all of a folder. One bad spec never hides the good ones. And where the files are
that a spec names."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from model_store.errors import Permanent
from model_store.installation import ROOT
from model_store.release_spec.document import Complaint, InvalidSpec, read_document
from model_store.release_spec.pydantic_complaints import complaints
from model_store.release_spec.release import ReleaseSpec
from model_store.release_spec.section import Section

S = TypeVar("S", bound=Section)

SUFFIXES = (".yaml", ".yml")


class Loaded(NamedTuple):
    """What a folder holds: the good specs in the order of their models, and what is wrong with the others."""

    specs: list[ReleaseSpec]
    problems: list[InvalidSpec]


def load(path: Path) -> ReleaseSpec:
    """Read one spec. Raises `InvalidSpec` with every wrong line: field, what was given, allowed values."""
    return _with_data_beside(read_section(path, ReleaseSpec), path)


def read_section(path: Path, kind: type[S]) -> S:
    """A YAML file that is one section. Raises `InvalidSpec` with every wrong line."""
    document = read_document(path)
    try:
        # strict: "5" is not 5 and 1 is not true; a spec says what it means.
        section = kind.model_validate(document.data, strict=True)
    except ValidationError as error:
        found = complaints(error.errors(include_url=False), document, kind)
        raise InvalidSpec(path, [*document.complaints, *found]) from error
    if document.complaints:
        raise InvalidSpec(path, document.complaints)
    return section


def _with_data_beside(spec: ReleaseSpec, path: Path) -> ReleaseSpec:
    """Relative paths of data, where the file lies beside the spec. Only here is it known where that is."""
    written = {"evaluation": spec.data.evaluation, "calibration": spec.data.calibration}
    found = {field: beside(path_written, path) for field, path_written in written.items()}
    return spec if found == written else spec.model_copy(update={"data": spec.data.model_copy(update=found)})


def load_all(folder: Path) -> Loaded:
    """Read every .yaml and .yml file directly in `folder`, in the order of their names.

    Of two files for one model, the one named after it counts (else the first); the other is a problem.
    Raises `Permanent` when `folder` is not one.
    """
    if not folder.is_dir():
        raise Permanent(f"{folder} is not a folder", remedy="put release specs into dags/releases/")
    read: dict[Path, ReleaseSpec] = {}
    problems: list[InvalidSpec] = []
    for path in sorted(_spec_files(folder)):
        try:
            read[path] = load(path)
        except InvalidSpec as problem:
            problems.append(problem)
    owners = _owners(read)
    problems += [
        _second(path, owners[spec.model]) for path, spec in read.items() if path != owners[spec.model]
    ]
    return Loaded([read[owners[model]] for model in sorted(owners)], sorted(problems, key=lambda p: p.path))


def _spec_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(".")]


def _owners(read: dict[Path, ReleaseSpec]) -> dict[str, Path]:
    """The file that counts for each model."""
    by_rank = sorted(read.items(), key=lambda item: (item[0].stem != item[1].model, item[0].name))
    owners: dict[str, Path] = {}
    for path, spec in by_rank:
        owners.setdefault(spec.model, path)
    return owners


def _second(path: Path, owner: Path) -> InvalidSpec:
    document, at = read_document(path), ("model",)
    problem, remedy = f"{owner.name} already releases this model", "keep one file per model"
    complaint = Complaint(document.line(at), "model", problem, document.written[at], remedy=remedy)
    return InvalidSpec(path, [complaint])


def beside(written: str, spec: Path) -> str:
    """`written` as an absolute path if it is a relative one and its file lies there, seen from the spec's
    folder; else as it is. Like every path in a spec: `$$` is a dollar.
    """
    found = spec.resolve().parent / written
    if "$" in written or Path(written).is_absolute() or not found.is_file():
        return written
    return str(found.resolve()).replace("$", "$$")


def expand(written: str, *, home: Path, repository: Path = ROOT) -> Path:
    """The absolute path of `written` in a spec: `${SLIPWAY_HOME}` is `home`, a relative path that was not
    found beside the spec starts at `repository`, the clone.

    Raises `Permanent` on any other variable: a spec must mean the same on every machine.
    """
    try:
        path = Template(written).substitute(SLIPWAY_HOME=home)
    except (KeyError, ValueError) as error:
        raise Permanent(
            f"`{written}` names a variable that specs do not have ({error})",
            remedy="use ${SLIPWAY_HOME}, an absolute path, or one from the spec's folder; `$$` is a dollar",
        ) from error
    return (repository / path).resolve()
