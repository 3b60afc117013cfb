"""MLflow's documentation, "Type Hints in PythonModel": rows that are a list of text."""

import mlflow.models
import mlflow.pyfunc


class Lengths(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return ["long" if len(text) > 12 else "short" for text in model_input]


mlflow.models.set_model(Lengths())
