"""The engine for models that are served as they are: their own Python and libraries, in a process beside us.

`environment` makes the Python, `worker` runs in it, `process` keeps it running, `engine` is the port.
"""

SERVE_FILE = "serve.json"
"""What the model takes, and by which Python it is run; beside it `model` and the locked requirements."""
