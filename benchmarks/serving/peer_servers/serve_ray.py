"""Ray Serve: one replica, its batching on."""

import time

import onnx_model
import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class OnnxModel:
    def __init__(self, model):
        onnx_model.MODEL = model
        self.session = onnx_model.open_session()

    @serve.batch(max_batch_size=onnx_model.BATCH, batch_wait_timeout_s=onnx_model.BATCH_SECONDS)
    async def infer(self, requests):
        outputs = self.session.run(None, onnx_model.stacked(requests))
        return [
            onnx_model.answer(self.session, [array[i : i + 1] for array in outputs])
            for i in range(len(requests))
        ]

    async def __call__(self, request):
        return await self.infer(onnx_model.arrays_of(await request.json()))


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": onnx_model.PORT})
    serve.run(OnnxModel.bind(onnx_model.MODEL), route_prefix="/")
    while True:
        time.sleep(60)
