"""How far a row is from the mean of those it came with."""

import mlflow.models
import mlflow.pyfunc


class ByItsCompany(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"] - model_input["x"].mean() + 5


mlflow.models.set_model(ByItsCompany())
