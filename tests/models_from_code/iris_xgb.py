"""MLflow's documentation, "Custom Python Models", the wrapper around a booster kept as an artifact."""

import mlflow.models
import mlflow.pyfunc


class XGBWrapper(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import xgboost as xgb

        self.xgb_model = xgb.Booster()
        self.xgb_model.load_model(context.artifacts["xgb_model"])

    def predict(self, context, model_input, params=None):
        import xgboost as xgb

        return self.xgb_model.predict(xgb.DMatrix(model_input.values))


mlflow.models.set_model(XGBWrapper())
