"""The pod: serves one or more bundles over the Open Inference Protocol v2.

Read it in the order a request travels: `http.connection` (bytes in), `http.routes`, `codec` (tensors),
`model` (one served model), `batching`, `engine`, and back. It imports neither Airflow, MLflow, Great
Expectations, scikit-learn nor pandas, and starts from a bundle directory alone.
"""
