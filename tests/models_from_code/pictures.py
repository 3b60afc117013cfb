"""One array in, arrays by name out, and a default that the signature's `params` say."""

import mlflow.models
import mlflow.pyfunc


class Pictures(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        bright = model_input.max(axis=(1, 2)) > params["bright"]
        return {"mean": model_input.mean(axis=(1, 2)), "is_bright": bright}


mlflow.models.set_model(Pictures())
