"""Models as MLflow logs them from code (`log_model(python_model="FILE.py")`).

Imported by nobody here: each runs in an environment of its own.
"""
