"""LitServe: one worker, its batching on."""

import litserve as ls
import onnx_model


class OnnxAPI(ls.LitAPI):
    def setup(self, device):
        self.session = onnx_model.open_session()

    def decode_request(self, request):
        return onnx_model.arrays_of(request)

    def batch(self, inputs):
        return onnx_model.stacked(inputs)

    def predict(self, batch):
        return self.session.run(None, batch)

    def unbatch(self, outputs):
        return [[array[i : i + 1] for array in outputs] for i in range(len(outputs[0]))]

    def encode_response(self, output):
        return onnx_model.answer(self.session, output)


if __name__ == "__main__":
    api = OnnxAPI(max_batch_size=onnx_model.BATCH, batch_timeout=onnx_model.BATCH_SECONDS)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=onnx_model.PORT, log_level="error", generate_client_file=False)
