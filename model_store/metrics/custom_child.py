"""Asks one function of the user's about rows: `python -I custom_child.py FOLDER MEMORY_MB`.

Runs alone and imports nothing of ours: what the code does ends with this process. FOLDER has request.json and
rows.npz, and gets result.json and answers.npz.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def main(folder: Path, memory_mb: int) -> None:
    """Do what request.json asks; result.json says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads((folder / "request.json").read_text())
    sys.path.extend(entry for entry in request["path"] if entry not in sys.path)
    (folder / "result.json").write_text(json.dumps(_ask(request, folder)))


def _ask(request: dict[str, Any], folder: Path) -> dict[str, str]:
    import numpy as np

    try:
        function = getattr(_module(request["source"]), request["function"])
    except Exception as error:
        return {"problem": f"cannot be loaded: {_first_line(error)}"}
    with np.load(folder / "rows.npz", allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    truth = _part(arrays, "truth", ("classes", "values", "groups"))
    answers = {}
    for place in range(request["models"]):
        said = _part(arrays, f"said{place}", ("decisions", "scores", "values"))
        try:
            answers[str(place)] = np.asarray(function(truth, said), np.float64)
        except MemoryError:
            return {"problem": "needs more memory than it may have"}
        except Exception as error:
            return {"problem": f"fails: {_first_line(error)}"}
    np.savez(folder / "answers.npz", allow_pickle=False, **answers)
    return {}


def _module(source: str) -> Any:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = Path(source)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _part(arrays: dict[str, Any], prefix: str, names: tuple[str, ...]) -> SimpleNamespace:
    return SimpleNamespace(**{name: arrays.get(f"{prefix}.{name}") for name in names})


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
