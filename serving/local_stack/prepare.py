"""Everything on disk that the components expect: folders, ports, credentials, configurations.

`python -m serving.local_stack.prepare` does it alone; docker-compose.yaml's service `secrets` does it first.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict

from model_store.durable import write_file
from model_store.errors import SlipwayError
from model_store.installation import DAG_FILES, is_clone
from model_store.unwritable import require_room, unwritable
from serving.control.retention import Retention
from serving.credentials import credentials_of
from serving.gateway import api_keys
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import DELIVERY_KEY, Home
from serving.local_stack import airflow_config
from serving.platforms import pods, redis
from serving.supervision import supervisor
from serving.supervision.component import Component

# Below this nothing starts. What is enough to work with, `./slipway doctor` says.
ROOM_BYTES = 1024 * 1024

# Airflow reads a file that has the words dag and airflow in it.
DAGS_OF_A_HOME = """\
from slipway_airflow import dags

globals().update(dags.beside(__file__))
"""


def prepare(home: Home, supervised: Iterable[Component]) -> None:
    """Write what is missing and renew what is generated. Safe to repeat.

    Raises `OSError` naming the folder of the home that has no room: what runs there would end without a word;
    and `Permanent` where the file of API keys cannot be read: Envoy would not start.
    """
    _require_room(home)
    if home.root.stat().st_uid == os.getuid():
        # All of it is one user's, whatever the umask was when each file was made.
        home.root.chmod(0o700)
    api_keys.clients_of(home)
    for folder in (home.run, home.logs, home.pods, home.store, home.data, home.routes):
        folder.mkdir(parents=True, exist_ok=True)
    # Readable by now: Home has read its ports from it. What else people wrote there stays.
    kept = json.loads(home.config.read_bytes()) if home.config.exists() else {}
    settings = {
        "retention": asdict(Retention()),
        **kept,
        "ports": asdict(home.ports),
        DELIVERY_KEY: home.delivery,
    }
    write_file(home.config, json.dumps(settings, indent=1).encode())
    if not is_clone() and not home.dags.exists():
        _make_dag_folder(home)
    airflow_config.write(home, credentials_of(home))
    supervisor.configure(home, supervised)
    pods.renew_programs(home)
    redis.renew_program(home)
    _close_what_pods_closed(home)


def _make_dag_folder(home: Home) -> None:
    """One file that asks the installed package for the DAGs, and the example of a spec beside it."""
    write_file(home.dags / "slipway_dags.py", DAGS_OF_A_HOME.encode())
    for spec in (DAG_FILES / "releases").glob("*.yaml"):
        write_file(home.dags / "releases" / spec.name, spec.read_bytes())


def _close_what_pods_closed(home: Home) -> None:
    """An earlier Slipway left it to pods to ask for API keys, and its routes say nothing of them."""
    for record in pods.records(home):
        if record.bundle.exists() and pods.requirements_of(record.bundle).api_keys:
            EnvoyFileRouter(home).ask_for_keys(record.deployment.service)


def _require_room(home: Home) -> None:
    """What people keep there for us to read may lie on a disk that nobody writes."""
    home.root.mkdir(parents=True, exist_ok=True)
    read_only = (home.root / "dags", home.data, home.cache)
    for folder in (home.root, *home.root.iterdir()):
        if folder.is_dir() and folder not in read_only:
            require_room(folder, ROOM_BYTES)


if __name__ == "__main__":
    try:
        prepare(Home.locate(), ())
    except (SlipwayError, OSError) as problem:
        sys.exit(str(unwritable(problem) or problem))
