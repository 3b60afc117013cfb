"""MLServer: a custom runtime, adaptive batching on, one process."""

import json
import os
import tempfile
from pathlib import Path

import onnx_model
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec


class OnnxModel(MLModel):
    async def load(self):
        self.session = onnx_model.open_session()
        return True

    async def predict(self, payload):
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        outputs = self.session.run(None, feeds)
        names = [value.name for value in self.session.get_outputs()]
        encoded = [NumpyCodec.encode_output(name, array) for name, array in zip(names, outputs, strict=True)]
        return types.InferenceResponse(id=payload.id, model_name=self.name, outputs=encoded)


def main():
    folder = Path(tempfile.mkdtemp())
    port = onnx_model.PORT
    settings = {
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps({**settings, "host": "127.0.0.1"}))
    model = {
        "name": "m",
        "implementation": "serve_mlserver.OnnxModel",
        "max_batch_size": onnx_model.BATCH,
        "max_batch_time": onnx_model.BATCH_SECONDS,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", str(folder)])


if __name__ == "__main__":
    main()
