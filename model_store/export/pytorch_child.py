"""Loads one torch model by MLflow, asks it and exports it: `python -I pytorch_child.py FOLDER MB`.

Runs in the model's own environment, beside which onnx and onnxscript were installed, and imports nothing of
ours. FOLDER has request.json and rows.npz, and gets result.json, model.onnx and answers.npz.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# So many rows at once; what a model answers is kept, what it computes on the way is not.
_ROWS = 32
# Sizes of a batch for tracing: a size of 1 is taken for a constant, and one that is also a feature's may be.
_BATCHES = (3, 5, 7, 11, 13)


def main(folder: Path, memory_mb: int) -> None:
    """Do what request.json asks; result.json says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The spec has allowed it, and this is a sandbox.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    request = json.loads((folder / "request.json").read_text())
    told: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    try:
        for doing, work in (("load", _load), ("predict", predict), ("convert", convert)):
            step = doing
            work(folder, request, told, kept)
    except MemoryError:
        told |= {"failed": f"exporting the model needs more than {memory_mb} MB", "step": "memory"}
    except Exception as error:
        no_memory = "DefaultCPUAllocator" in str(error)
        told |= {"failed": _told(error), "step": "memory" if no_memory else step}
    (folder / "result.json").write_text(json.dumps(told))


Kept = dict[str, Any]


def _load(folder: Path, request: dict[str, Any], told: dict[str, Any], kept: Kept) -> None:
    import mlflow.pytorch
    import torch

    torch.set_num_threads(max(1, request["threads"]))
    module = mlflow.pytorch.load_model(request["model"], map_location="cpu")
    told["class"] = type(module).__name__
    saved = Path(request["model"]) / "data" / "model.pt2"
    kept["program"] = torch.export.load(str(saved)) if saved.is_file() else None
    if kept["program"] is None:
        # One that was traced says for good whether it is being trained.
        module = module.to("cpu").eval()
    kept["module"] = module
    kept["call"] = caller(module, request["inputs"], is_program=kept["program"] is not None)


def caller(module: Any, names: Sequence[str], *, is_program: bool) -> Callable[..., Any]:
    """With tensors in the signature's order: by name where `forward` has all of these, else by place."""
    try:
        known = set(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        known = set()
    if is_program or not set(names) <= known:
        return lambda *tensors: module(*tensors)
    return lambda *tensors: module(**dict(zip(names, tensors, strict=True)))


def predict(folder: Path, request: dict[str, Any], told: dict[str, Any], kept: Kept) -> None:
    import numpy as np
    import torch

    with np.load(folder / "rows.npz", allow_pickle=False) as saved:
        arrays = [saved[f"column{place}"] for place in range(request["columns"])]
    if request["is_table"]:
        # As MLflow's own wrapper does with a DataFrame.
        arrays = [np.column_stack(arrays).astype(np.float32)]
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    count = len(arrays[0])
    parts: dict[str, list[Any]] = {}
    with torch.no_grad():
        for first in range(0, count, _ROWS):
            said = kept["call"](*(tensor[first : first + _ROWS] for tensor in tensors))
            for name, tensor in _named(said, request["outputs"]):
                parts.setdefault(name, []).append(tensor.detach().cpu().numpy())
    for name, several in parts.items():
        if any(part.ndim == 0 for part in several) or sum(map(len, several)) != count:
            raise ValueError(f"its output {name} has not one answer for each row")
    answers = {name: np.concatenate(several) for name, several in parts.items()}
    np.savez(folder / "answers.npz", allow_pickle=False, **answers)
    told["outputs"] = list(answers)
    told["form"] = {name: [array.dtype.kind, list(array.shape[1:])] for name, array in answers.items()}
    batch = _batch_of(tensors)
    # Rows that are there, over again where they are too few.
    kept["example"] = tuple(tensor[[row % count for row in range(batch)]] for tensor in tensors)


def _batch_of(tensors: Sequence[Any]) -> int:
    sizes = {size for tensor in tensors for size in tensor.shape[1:]}
    return next((size for size in _BATCHES if size not in sizes), _BATCHES[-1])


def _named(said: Any, names: Sequence[str], prefix: str = "output") -> list[tuple[str, Any]]:
    """Tensors by name: a dictionary's keys, else the signature's names, else `output`, `output_1`, ..."""
    import torch

    if isinstance(said, torch.Tensor):
        return [(names[0] if len(names) == 1 else prefix, said)]
    if isinstance(said, Mapping):
        flat = [_named(value, (), str(key)) for key, value in said.items() if value is not None]
        return [one for several in flat for one in several]
    if isinstance(said, Sequence) and not isinstance(said, str):
        values = [value for value in said if value is not None]
        own = (
            names
            if len(names) == len(values)
            else [f"{prefix}_{k}" if k else prefix for k in range(len(values))]
        )
        flat = [_named(value, (), own[place]) for place, value in enumerate(values)]
        return [one for several in flat for one in several]
    raise TypeError(f"it answers {type(said).__name__}, not tensors")


def convert(folder: Path, request: dict[str, Any], told: dict[str, Any], kept: Kept) -> None:
    import torch

    failures = []
    for name, way in _ways(kept, request, told):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                way(str(folder / "model.onnx"))
        except Exception as error:  # torch has many of its own, and the next way may do
            failures.append(f"{name}: {_told(error)}")
        else:
            told["by"] = name
            told["versions"] = _versions("torch", "onnxscript")
            return
    raise ValueError("; ".join(failures))


def _ways(
    kept: Kept, request: dict[str, Any], told: dict[str, Any]
) -> list[tuple[str, Callable[[str], None]]]:
    """The exporters that may do, the better first: torch.export's, and TorchScript's for what that lacks."""
    import torch

    names = {"input_names": request["inputs"], "output_names": told["outputs"]}
    example, free = kept["example"], request["free"]
    script = isinstance(kept["module"], torch.jit.ScriptModule)
    has_dynamo = "dynamo" in inspect.signature(torch.onnx.export).parameters and hasattr(torch.export, "Dim")

    def by_program(target: str) -> None:
        # The ranges are those that it was logged with.
        _saved(torch.onnx.export(kept["program"], dynamo=True, verbose=False, **names), target)

    def by_export(target: str) -> None:
        shapes = tuple({dim: _free(dim) for dim in dims} for dims in free)
        module = _flat(kept["call"], kept["module"])
        program = torch.export.export(module, example, dynamic_shapes=(shapes,), strict=False)
        _saved(torch.onnx.export(program, dynamo=True, verbose=False, **names), target)

    def by_script(target: str) -> None:
        axes = {
            name: {dim: f"dim{dim}" for dim in dims}
            for name, dims in zip(request["inputs"], free, strict=True)
        }
        axes |= {name: {0: "dim0"} for name in told["outputs"]}
        module = kept["module"] if script else _flat(kept["call"], kept["module"])
        old = {"dynamo": False} if has_dynamo else {}
        torch.onnx.export(module, example, target, dynamic_axes=axes, **names, **old)

    if kept["program"] is not None:
        return [("torch.export", by_program)]
    newer = [("torch.export", by_export)] if has_dynamo and not script else []
    return [*newer, ("TorchScript", by_script)]


def _free(dim: int) -> Any:
    """Rows must be free, and an exporter that fixes them fails here; other sizes may turn out to be fixed."""
    import torch

    known = torch.export.Dim
    if hasattr(known, "DYNAMIC"):
        return known.DYNAMIC if dim == 0 else known.AUTO
    return known(f"dim{dim}")


def _flat(call: Callable[..., Any], module: Any) -> Any:
    """The same model, taking its tensors in order and answering them in order, without what is none."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            return tuple(tensor for _, tensor in _named(call(*tensors), ()))

    return Flat().eval()


def _saved(exported: Any, target: str) -> None:
    exported.optimize()
    exported.save(target)


def _versions(*distributions: str) -> str:
    from importlib.metadata import version

    first, *others = [(name, version(name)) for name in distributions]
    return first[1] + f" ({', '.join(' '.join(one) for one in others)})"


def _told(error: Exception) -> str:
    """The first line that says something: torch's longest are of its own inner life."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400] if lines else ''}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
