"""MLflow's documentation, "code_paths": a module of the team's own, logged beside the model."""

import mlflow.models
import mlflow.pyfunc
from house_rules import decided


class ByTheRules(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return decided(model_input)


mlflow.models.set_model(ByTheRules())
