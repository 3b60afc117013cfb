"""The safety loop: looks at every release several times a second, and only ever rolls back.

It needs the journal's files, the routes' files and Envoy, and nothing else: no Airflow, no MLflow, no
database. `python -m serving.guard`.
"""

from serving.control.guard.guard import Guard

__all__ = ["Guard"]
