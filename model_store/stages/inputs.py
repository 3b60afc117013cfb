"""What stages read besides what earlier stages made, and what makes a memo of theirs stale."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.durable import digest_file
from model_store.errors import Permanent
from model_store.records import read_tensors
from model_store.release_spec import expand
from model_store.stages.base import BuildContext, Exported, Json
from model_store.stages.forms import is_as_logged
from model_store.storage.opening import is_url
from model_store.storage.transfer import local_copy

if TYPE_CHECKING:
    from model_store.dataset import Dataset

# Raise it when a stage makes something else of the same inputs: memos of older code are then not used.
REVISION = 7


def tools(*distributions: str) -> Json:
    """Versions of what a stage computes with, for its memo's key; and on what, where that is a GPU."""
    device = os.environ.get("SLIPWAY_DEVICE")
    return {
        "revision": REVISION,
        **({"device": device} if device else {}),
        **{name: _version(name) for name in distributions},
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def located(ctx: BuildContext, written: str) -> Path:
    """The file that the spec writes so: one of `ctx.files`, a copy of what a URL names, or a path.

    Raises `Permanent` for a URL where nothing is, `Retryable` while its storage does not answer.
    """
    if written in ctx.files:
        return ctx.files[written]
    if is_url(written):
        return local_copy(written, ctx.store.root / "data")
    return expand(written, home=ctx.home)


def evaluation_path(ctx: BuildContext) -> Path:
    """The file `data.evaluation` names. Raises `Permanent` when it is not there."""
    return _existing(located(ctx, ctx.spec.data.evaluation), "data.evaluation")


def calibration_path(ctx: BuildContext) -> Path:
    """The file `data.calibration` names. Raises `Permanent` when it is not there."""
    return _existing(located(ctx, ctx.spec.data.calibration), "data.calibration")


def evaluation_rows(ctx: BuildContext, exported: Exported) -> Dataset:
    """The labelled rows candidates are judged on. Raises `Permanent` (UnusableData)."""
    from model_store.dataset import read_dataset

    inputs = read_tensors(exported["inputs"])
    return read_dataset(
        evaluation_path(ctx),
        ctx.spec.data,
        inputs,
        columns=exported["columns"],
        as_logged=is_as_logged(exported),
    )


def calibration_rows(ctx: BuildContext, exported: Exported) -> Dataset:
    """The rows int8 ranges are taken from; their labels are not read. Raises `Permanent` (UnusableData)."""
    from model_store.dataset import read_dataset

    inputs = read_tensors(exported["inputs"])
    return read_dataset(
        calibration_path(ctx),
        ctx.spec.data,
        inputs,
        columns=exported["columns"],
        labelled=False,
        as_logged=is_as_logged(exported),
    )


def data_key(ctx: BuildContext) -> Json:
    """What decides which tensors a data file becomes."""
    read = {"inputs", "label", "group", "positive", "slices", "max_slice_values", "ignore"}
    return ctx.spec.data.model_dump(mode="json", include=read)


def reading_key(ctx: BuildContext, exported: Exported) -> Json:
    """What decides how a model's answers are read."""
    said = ctx.spec.model_dump(mode="json", include={"task", "outputs", "classes"})
    return {**said, "says": exported.get("says"), "custom": _functions(ctx)}


def function_path(ctx: BuildContext, function: str) -> str:
    """A metric's `PATH.py:function` with the path as everywhere in a spec; `module:function` as it is."""
    source, _, name = function.rpartition(":")
    return f"{located(ctx, source)}:{name}" if source.endswith(".py") else function


def _functions(ctx: BuildContext) -> dict[str, str]:
    """The bytes of each metric of the user's own; of an installed module its name has to do."""
    paths = {
        one.function: function_path(ctx, one.function).rpartition(":")[0] for one in ctx.spec.gates.custom
    }
    return {
        function: digest_file(Path(path)) if Path(path).is_file() else "" for function, path in paths.items()
    }


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a data file."""
    return digest_file(path)


def _existing(path: Path, field: str) -> Path:
    if not path.is_file():
        raise Permanent(f"{path} is not there", remedy=f"put the file there, or correct {field} in the spec")
    return path
