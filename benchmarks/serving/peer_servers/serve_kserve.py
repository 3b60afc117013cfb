"""KServe's model server: one uvicorn worker, OIP v2 over REST, no batching (its batcher is a sidecar)."""

import numpy as np
import onnx_model
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class OnnxModel(Model):
    def load(self):
        self.session = onnx_model.open_session()
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = self.session.run(None, feeds)
        names = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
        infer_outputs = []
        for value, array in zip(self.session.get_outputs(), outputs, strict=True):
            output = InferOutput(name=value.name, shape=list(array.shape), datatype=names[array.dtype])
            output.set_data_from_numpy(array, binary_data=False)
            infer_outputs.append(output)
        return InferResponse(response_id=generate_uuid(), model_name=self.name, infer_outputs=infer_outputs)


if __name__ == "__main__":
    model = OnnxModel("m")
    model.load()
    ModelServer(http_port=onnx_model.PORT, enable_grpc=False, workers=1, enable_latency_logging=False).start(
        [model]
    )
