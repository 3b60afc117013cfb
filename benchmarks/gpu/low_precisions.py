"""`python -m benchmarks.gpu.low_precisions [--host]`: what onnxruntime's CUDA provider does in few bits.

Twelve layers of MatMul 4096 x 4096 and Relu (0.8 GB of weights in fp32, as a language model has them), in
fp32, fp16, bf16, int8 (explicit Q/DQ of weights and activations), fp8 (likewise) and int4 weights
(`MatMulNBits`, blocks of 32). For each: rows a second by IO binding for batches of 1, 8, 32 and 256, the
file's size, how far the answers are from the fp32 file's (share of the largest), and how many operators run
on the GPU and on the CPU. Last a JSON line. `--host` uses the CPU and small layers: it shows that the files
can be made.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.gpu.engine import measure_rate
from model_store.engines import gpu
from tests.bundles import model_of

_BATCHES = (1, 8, 32, 256)


def plain(width: int, layers: int, kind: int = TensorProto.FLOAT) -> ModelProto:
    """x [N, width] fp32 to y [N, width] fp32; inside, MatMul and Relu of tensors of `kind`."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["x"], ["in"], to=kind))
        last = "in"
    for layer in range(layers):
        weight = rng.standard_normal((width, width), np.float32) * np.float32((2 / width) ** 0.5)
        weights.append(
            numpy_helper.from_array(weight.astype(helper.tensor_dtype_to_np_dtype(kind)), f"w{layer}")
        )
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"], name=f"matmul{layer}"))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"], name=f"relu{layer}"))
        last = f"r{layer}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT))
    value = helper.make_tensor_value_info
    shapes = [value(name, TensorProto.FLOAT, ["N", width]) for name in ("x", "y")]
    return model_of(nodes, shapes[:1], shapes[1:], weights)


def with_scales(width: int, layers: int, kind: int, largest: float) -> ModelProto:
    """The fp32 model with Q/DQ of every weight (by tensor) and activation; `largest` is the type's."""
    model = plain(width, layers)
    model.opset_import[0].version = max(model.opset_import[0].version, 19)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    scale = numpy_helper.from_array(np.float32(8 / largest), "scale")
    zero = helper.make_tensor("zero", kind, [], np.zeros(1, dtype).tobytes(), raw=True)
    kept, nodes = [scale, zero], []
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            name, weight = node.input[1], weights[node.input[1]]
            step = np.float32(np.abs(weight).max() / largest)
            steps = np.round(weight / step) if kind == TensorProto.INT8 else weight / step
            low = np.clip(steps, -largest, largest).astype(dtype)
            kept.append(helper.make_tensor(f"{name}q", kind, weight.shape, low.tobytes(), raw=True))
            kept.append(numpy_helper.from_array(step, f"{name}s"))
            told = node.input[0]
            nodes.append(helper.make_node("QuantizeLinear", [told, "scale", "zero"], [f"{told}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{told}_q", "scale", "zero"], [f"{told}_d"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", f"{name}s", "zero"], [f"{name}d"]))
            node.input[0], node.input[1] = f"{told}_d", f"{name}d"
        nodes.append(node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return model


def int4(width: int, layers: int) -> ModelProto:
    """Weights of the fp16 model in blocks of 32, 4 bits each."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    exact = plain(width, layers, TensorProto.FLOAT16)
    quantizer = MatMulNBitsQuantizer(exact, block_size=32, is_symmetric=True)
    quantizer.process()
    model: ModelProto = quantizer.model.model
    return model


KINDS: dict[str, Callable[[int, int], ModelProto]] = {
    "fp32": plain,
    "fp16": lambda width, layers: plain(width, layers, TensorProto.FLOAT16),
    "bf16": lambda width, layers: plain(width, layers, TensorProto.BFLOAT16),
    "int8 Q/DQ": lambda width, layers: with_scales(width, layers, TensorProto.INT8, 127.0),
    "fp8 Q/DQ": lambda width, layers: with_scales(width, layers, TensorProto.FLOAT8E4M3FN, 448.0),
    "int4 weights": int4,
}


def main(words: Sequence[str]) -> int:
    on_host = "--host" in words
    width, layers = (256, 2) if on_host else (4096, 12)
    provider = "CPUExecutionProvider" if on_host else "CUDAExecutionProvider"
    rows = np.random.default_rng(1).standard_normal((256, width), np.float32)
    expected: np.ndarray | None = None
    found: dict[str, Any] = {}
    for name, make in KINDS.items():
        try:
            data = make(width, layers).SerializeToString()
            session = _opened(data, provider)
            said = session.run(None, {"x": rows})[0]
        except Exception as error:  # what a provider cannot run is a result
            found[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            print(f"{name:14}{found[name]['failed']}", flush=True)
            continue
        expected = said if expected is None else expected
        told: dict[str, Any] = {
            "mb": len(data) >> 20,
            "off": float(f"{np.abs(said - expected).max() / np.abs(expected).max():.1g}"),
            "operators": dict(_placed(session)),
        }
        for count in _BATCHES:
            told[str(count)] = round(count * _rate(session, rows[:count], "cpu" if on_host else "cuda"))
        found[name] = told
        print(f"{name:14}{told}", flush=True)
    print(json.dumps(found))
    return 0


def _opened(data: bytes, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    for key, value in gpu.RECORD_PLACEMENT.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(data, options, providers=[provider, "CPUExecutionProvider"])


def _placed(session: ort.InferenceSession) -> Counter[str]:
    return gpu.placement(session)


def _rate(session: ort.InferenceSession, rows: np.ndarray, device: str) -> float:
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(rows, device, 0))
    binding.bind_output("y", device)
    return max(measure_rate(lambda: _run(session, binding))[0] for _ in range(3))


def _run(session: ort.InferenceSession, binding: Any) -> None:
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
