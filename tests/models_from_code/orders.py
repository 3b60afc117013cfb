"""A table with text, a date, gaps and whole numbers; answers a table."""

import mlflow.models
import mlflow.pyfunc
import pandas as pd


class Orders(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        rows = model_input
        return pd.DataFrame(
            {
                "total": rows["count"] * rows["price"].fillna(1.0),
                "words": [
                    f"{text or 'nobody'} in {when:%B}"
                    for text, when in zip(rows["who"], rows["at"], strict=True)
                ],
                "is_large": rows["count"] > 2,
            }
        )


mlflow.models.set_model(Orders())
