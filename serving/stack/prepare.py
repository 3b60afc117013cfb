"""Everything on disk that the components expect: folders, ports, credentials, configurations.

`python -m serving.stack.prepare` does it where something else supervises the components, as in
docker-compose.yaml; supervisord then has only the pods.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from model_store.durable import write_file
from model_store.errors import SlipwayError
from serving.home import Home
from serving.stack import airflow_config, supervisor
from serving.stack.components import Component
from serving.stack.credentials import credentials_of
from serving.upkeep import Retention


def prepare(home: Home, supervised: Iterable[Component]) -> None:
    """Write what is missing and renew what is generated. Safe to repeat."""
    for folder in (home.run, home.logs, home.pods, home.store, home.journal, home.data, home.routes):
        folder.mkdir(parents=True, exist_ok=True)
    # Readable by now: Home has read its ports from it. What else people wrote there stays.
    kept = json.loads(home.config.read_bytes()) if home.config.exists() else {}
    settings = {"retention": asdict(Retention()), **kept, "ports": asdict(home.ports)}
    write_file(home.config, json.dumps(settings, indent=1).encode())
    airflow_config.write(home, credentials_of(home))
    supervisor.configure(home, supervised)


if __name__ == "__main__":
    try:
        prepare(Home.locate(), ())
    except SlipwayError as error:
        sys.exit(str(error))
