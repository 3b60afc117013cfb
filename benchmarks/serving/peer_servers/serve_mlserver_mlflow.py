"""MLServer's MLflow runtime over the folder of a logged model, adaptive batching on, one process."""

import json
import os
import tempfile
from pathlib import Path


def main():
    folder = Path(tempfile.mkdtemp())
    port = int(os.environ["BENCH_PORT"])
    settings = {
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        # The model in the server's own process: its workers do not start with today's uvloop.
        "parallel_workers": 0,
        "debug": False,
        "host": "127.0.0.1",
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "m",
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "max_batch_size": 32,
        "max_batch_time": 0.002,
        "parameters": {"uri": os.environ["BENCH_MODEL"]},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", str(folder)])


if __name__ == "__main__":
    main()
