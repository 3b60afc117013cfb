"""BentoML: one worker, adaptive batching on. Its API takes the rows alone, not an OIP request."""

import os

import bentoml
import numpy as np
import onnx_model


@bentoml.service(workers=1, traffic={"timeout": 30})
class OnnxService:
    def __init__(self):
        self.session = onnx_model.open_session()
        self.types = {value.name: value.type for value in self.session.get_inputs()}

    @bentoml.api(batchable=True, max_batch_size=onnx_model.BATCH, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        name = next(iter(self.types))
        kind = np.int64 if "int64" in self.types[name] else np.float32
        feeds = {name: rows.astype(kind)}
        if "attention_mask" in self.types:
            feeds["attention_mask"] = np.ones_like(feeds[name])
        return self.session.run(None, feeds)[-1]


if __name__ == "__main__":
    os.execvp(
        "bentoml",
        [
            "bentoml",
            "serve",
            "serve_bentoml:OnnxService",
            "--port",
            str(onnx_model.PORT),
            "--host",
            "127.0.0.1",
        ],
    )
