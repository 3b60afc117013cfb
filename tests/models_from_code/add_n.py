"""MLflow's documentation, "Custom Python Models": adds a constant that is kept beside the code."""

import mlflow.models
import mlflow.pyfunc


class AddN(mlflow.pyfunc.PythonModel):
    def __init__(self, n):
        self.n = n

    def predict(self, context, model_input, params=None):
        return model_input.apply(lambda column: column + self.n)


mlflow.models.set_model(AddN(n=5))
