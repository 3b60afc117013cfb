"""The loop that moves traffic: looks at every release several times a second, judges, decides and applies.

It needs files, Envoy and the platforms, and nothing else: no Airflow, no MLflow, no database.
`python -m serving.controller`. Read `tick` first.
"""

from serving.control.controller.tick import Controller

__all__ = ["Controller"]
