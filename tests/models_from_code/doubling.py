"""Twice what it is given."""

import mlflow.models
import mlflow.pyfunc


class Doubling(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return 2 * model_input


mlflow.models.set_model(Doubling())
