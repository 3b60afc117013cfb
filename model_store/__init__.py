"""Everything before traffic: registry -> ONNX -> candidates -> gates -> bundle."""

import os

# What libraries read before they report to their makers how they are used: onnxruntime from 1.29 on keeps an
# identifier of the machine and uploads every session, MLflow each load of a model.
NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

# Of this process, before onnxruntime is imported, which looks once. Who wants it says so in the environment.
for _name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, NO_TELEMETRY[_name])
