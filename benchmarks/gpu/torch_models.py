"""`python -m benchmarks.gpu.torch_models [MODEL ...]`: models of others, by torch and by the engine of pods.

Architectures of torchvision and transformers with random weights, exported as `flavor: pytorch` does it
(`model_store/export/pytorch_child.py`). For each, precision and batch size: rows a second of the pod's CUDA
engine with rows where the pod writes them, of torch itself on the same GPU (eager, in the same precision,
rows copied there and back), and of torch in a CUDA graph recorded by hand. In turn, for the GPU's clock rises
while it works. Answers are compared with what torch answers on the CPU. Needs onnxruntime-gpu, torch,
torchvision, transformers and a GPU; no network. Last a JSON line.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from benchmarks.gpu.engine import measure_rate, staged
from model_store.engines.manifest import read_manifest
from model_store.engines.registry import open_engine
from model_store.quantize import half
from tests.bundles import make_bundle

# By its path: what it is part of needs libraries that a machine with torch may not have.
_PATH = Path(__file__).parents[2] / "model_store" / "export" / "pytorch_child.py"
_ROUNDS = 3
_BATCHES = (1, 8, 32)
_COLUMNS = ("batch", "engine/s", "eager/s", "graph/s", "x eager", "x graph", "off")
Rows = dict[str, np.ndarray]


def _pictures(rng: np.random.Generator) -> Rows:
    return {"input": rng.standard_normal((32, 3, 224, 224)).astype(np.float32)}


def _tokens(rng: np.random.Generator) -> Rows:
    ids = rng.integers(0, 1000, (32, 128))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _vision(name: str) -> Any:
    import torchvision

    module = getattr(torchvision.models, name)(weights=None)
    if hasattr(module, "heads"):
        # Vision transformers begin with a head of zeros, which answers 0 whatever it is asked.
        torch.nn.init.normal_(module.heads.head.weight, std=0.02)
    return module


def _text(name: str) -> Any:
    import transformers

    config = {
        "bert": transformers.BertConfig,
        "distilbert": transformers.DistilBertConfig,
        "roberta": transformers.RobertaConfig,
    }[name]()
    return transformers.AutoModelForSequenceClassification.from_config(config)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[np.random.Generator], Rows]]] = {
    **{
        name: (partial(_vision, name), _pictures)
        for name in (
            "resnet50",
            "mobilenet_v3_large",
            "efficientnet_b0",
            "convnext_tiny",
            "vit_b_16",
            "swin_t",
        )
    },
    **{name: (partial(_text, name), _tokens) for name in ("bert", "distilbert", "roberta")},
}


def main(names: Sequence[str]) -> int:
    warnings.simplefilter("ignore")
    print(f"{'model':28}" + "".join(f"{column:>12}" for column in _COLUMNS))
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for name in names or MODELS:
        try:
            rows += _compare(name)
        except Exception as error:  # one model's failure is a figure like another
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"{name:28}{failed[name]}", flush=True)
    print(
        json.dumps(
            {"onnxruntime": ort.__version__, "torch": torch.__version__, "rows": rows, "failed": failed}
        )
    )
    return 1 if failed else 0


def _compare(name: str) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    make, example = MODELS[name]
    module, rows = make(), example(np.random.default_rng(0))
    _settle(module, rows)
    with tempfile.TemporaryDirectory() as folder:
        exact, expected, by = _exported(module, rows, Path(folder))
    found = []
    for precision in ("fp32", "fp16"):
        model = exact if precision == "fp32" else onnx.load_model_from_string(half.convert(exact, rows)[0])
        serving = {"max_batch_size": 32, "threads": 1, "timeout_ms": 10_000, "stochastic": True}
        bundle = make_bundle(
            Path(tempfile.mkdtemp(prefix=f"gpu-{name}-")), model, name="m", serving=serving, warmup=rows
        )
        manifest = read_manifest(bundle)
        engine = open_engine(manifest, environ={"SLIPWAY_DEVICE": "cuda"})
        eager = module.cuda().to(torch.float16 if precision == "fp16" else torch.float32)
        for count in _BATCHES:
            inputs = [rows[spec.name][:count] for spec in manifest.signature.inputs]
            said = engine.run(inputs)[0]
            off = float(np.abs(said - expected[:count]).max() / np.abs(expected).max())
            feeds = {key: torch.from_numpy(array[:count]).pin_memory() for key, array in rows.items()}
            ways = (
                partial(engine.run, staged(engine, inputs)),
                partial(_asked, eager, feeds, precision),
                _recorded(eager, feeds, precision),
            )
            turns = [[measure_rate(way)[0] for way in ways] for _ in range(_ROUNDS)]
            rates = [median(turn[way] for turn in turns) * count for way in range(len(ways))]
            found.append(
                {
                    "model": name, "by": by, "precision": precision, "batch": count,
                    "engine": round(rates[0]), "eager": round(rates[1]), "graph": round(rates[2]),
                    "times_eager": round(rates[0] / rates[1], 2),
                    "times_graph": round(rates[0] / rates[2], 2),
                    "off": float(f"{off:.1g}"),
                }
            )  # fmt: skip
            _tell(found[-1])
        engine.close()
    return found


def _settle(module: Any, rows: Rows) -> None:
    """Batch norms see what the rows are like: of weights that are only random nothing is left at the end."""
    norms = [one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    if norms:
        with torch.no_grad():
            module.train()(*(torch.from_numpy(array) for array in rows.values()))
    module.eval()


def _exported(module: Any, rows: Rows, folder: Path) -> tuple[onnx.ModelProto, np.ndarray, str]:
    """As the child of an export does it, with what torch answers on the CPU."""
    names = list(rows)
    np.savez(folder / "rows.npz", **{f"column{k}": array for k, array in enumerate(rows.values())})
    request = {
        "inputs": names, "outputs": [], "columns": len(rows), "is_table": False, "threads": 16,
        "free": [[0] for _ in names],
    }  # fmt: skip
    spec = importlib.util.spec_from_file_location("pytorch_child", _PATH)
    assert spec
    assert spec.loader
    pytorch_child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pytorch_child)
    told: dict[str, Any] = {}
    kept: dict[str, Any] = {"module": module, "program": None}
    kept["call"] = pytorch_child.caller(module, names, is_program=False)
    pytorch_child.predict(folder, request, told, kept)
    pytorch_child.convert(folder, request, told, kept)
    with np.load(folder / "answers.npz") as answers:
        first = answers[told["outputs"][0]]
    return onnx.load(folder / "model.onnx"), first, told["by"]


def _asked(module: Any, feeds: dict[str, Any], precision: str) -> np.ndarray:
    """From the caller's memory to the caller's memory, as the engine is asked."""
    with torch.inference_mode():
        answer: np.ndarray = _said(module, _there(feeds, precision)).float().cpu().numpy()
    return answer


def _recorded(module: Any, feeds: dict[str, Any], precision: str) -> Callable[[], np.ndarray]:
    """The same by one CUDA graph for this batch size."""
    with torch.inference_mode():
        there = _there(feeds, precision)
        for _ in range(3):
            _said(module, there)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            said = _said(module, there)

    def ask() -> np.ndarray:
        with torch.inference_mode():
            for key, tensor in feeds.items():
                there[key].copy_(tensor, non_blocking=True)
            graph.replay()
            answer: np.ndarray = said.float().cpu().numpy()
        return answer

    return ask


def _there(feeds: dict[str, Any], precision: str) -> dict[str, Any]:
    inputs = {key: tensor.cuda(non_blocking=True) for key, tensor in feeds.items()}
    is_half = precision == "fp16"
    return {key: one.half() if is_half and one.is_floating_point() else one for key, one in inputs.items()}


def _said(module: Any, inputs: dict[str, Any]) -> Any:
    said = module(**inputs) if len(inputs) > 1 else module(*inputs.values())
    return said if isinstance(said, torch.Tensor) else said["logits"]


def _tell(row: dict[str, Any]) -> None:
    name = f"{row['model']} {row['precision']}"
    print(
        f"{name:28}{row['batch']:12}{row['engine']:12,}{row['eager']:12,}{row['graph']:12,}"
        f"{row['times_eager']:12.2f}{row['times_graph']:12.2f}{row['off']:12.1g}   {row['by']}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
