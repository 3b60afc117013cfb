"""Does what a row of text asks for, which is mostly not to answer."""

import ctypes
import os
import subprocess
import sys
import time

import mlflow.models
import mlflow.pyfunc

KEPT = []


class Troubled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        for todo in model_input["todo"]:
            {
                "exit": lambda: os._exit(3),
                "abort": os.abort,
                "segfault": lambda: ctypes.string_at(0),
                "hang": lambda: time.sleep(1000),
                "leak": lambda: KEPT.append(b"x" * (64 << 20)),
                "fork": lambda: KEPT.append(
                    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
                ),
                "print": lambda: sys.stdout.write("words of the model" + "x" * 100_000),
                "raise": lambda: model_input["no such column"],
            }.get(todo, lambda: None)()
        return model_input["todo"].map(len)


mlflow.models.set_model(Troubled())
