"""What a model is judged by: metrics found by their names, and how two models compare by each.

`metric("auc")` gives one, `known("binary")` says which there are. `base` has the types, `registry` how a new
one is added, `kinds` how two models are compared, `intervals` the statistics. See docs/gates.md.
"""

from model_store.metrics.base import Comparison, Metric, Prediction, Task, TooFewRows, Truth
from model_store.metrics.registry import Family, known, metric

__all__ = ["Comparison", "Family", "Metric", "Prediction", "Task", "TooFewRows", "Truth", "known", "metric"]
