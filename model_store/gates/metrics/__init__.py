"""What a model is judged by: one file a metric, each found by its name."""
