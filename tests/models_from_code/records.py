"""A dictionary for each row, as web programs answer."""

import mlflow.models
import mlflow.pyfunc


class Records(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [{"label": "a" if x > 0 else "b", "parts": [float(x), 1.0]} for x in model_input["x"]]


mlflow.models.set_model(Records())
