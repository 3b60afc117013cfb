"""Where one Slipway installation keeps its data and which ports it uses.

All data is in one directory: `SLIPWAY_HOME`, or `var/` in a clone of the repository, or `slipway` in the
user's data folder (`XDG_DATA_HOME`, else `~/.local/share`) where Slipway was installed by pip. Ports are set
once in `<home>/config.json` (written by `slipway up`); `SLIPWAY_PORT_BASE` moves all of them together, so
that several stacks can run beside each other, and `SLIPWAY_PORT_<NAME>` moves one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model_store.errors import Permanent
from model_store.installation import DAG_FILES, ROOT, is_clone
from serving.sockets import private_socket

# The variable that says how Envoys are told what the routes say, and its name in config.json.
DELIVERY, DELIVERY_KEY = "SLIPWAY_GATEWAY_DELIVERY", "gateway_delivery"
# Where others are that are not on this machine, as URLs.
CONTROLLER_URL, GATEWAY_URL, MLFLOW_URL, AIRFLOW_URL = (
    "SLIPWAY_CONTROLLER_URL",
    "SLIPWAY_GATEWAY_URL",
    "SLIPWAY_MLFLOW_URL",
    "SLIPWAY_AIRFLOW_URL",
)
# What they are: one Envoy on this machine watches files, or any number are told over gRPC.
FILES, ADS = "files", "ads"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every fixed port, all on 127.0.0.1. Pods take free ports from `pods_from` upwards.

    `envoy_stats`: what anybody may read of an Envoy, whose admin interface is a socket.
    """

    airflow: int = 8480
    mlflow: int = 8481
    gateway: int = 8482
    controller: int = 8484
    ads: int = 8486
    envoy_stats: int = 8487
    pods_from: int = 8500

    @classmethod
    def from_base(cls, base: int) -> Ports:
        """The same layout, moved so that the first port is `base`."""
        usual = cls()
        return cls(**{name: port - usual.airflow + base for name, port in asdict(usual).items()})


def default_root(environ: os._Environ[str] | dict[str, str] = os.environ) -> Path:
    """Where the data is if `SLIPWAY_HOME` does not say it."""
    if is_clone():
        return ROOT / "var"
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "slipway"


def _port(source: str, value: object) -> int:
    if not str(value).isdecimal() or not 1024 <= int(str(value)) <= 65_000:
        raise Permanent(f"{source}={value!r} is not a port", remedy="Give a number from 1024 to 65000.")
    return int(str(value))


def _url(name: str, environ: os._Environ[str] | dict[str, str]) -> str:
    url = (environ.get(name) or "").rstrip("/")
    if url and not url.startswith(("http://", "https://")):
        raise Permanent(f"{name}={url!r} is no address", remedy="Give http://HOST:PORT, or leave it out.")
    return url


def _urls(name: str, environ: os._Environ[str] | dict[str, str]) -> str:
    """Several with commas, as of controllers of which one leads."""
    given = [each.strip() for each in (environ.get(name) or "").split(",")]
    return ",".join(_url(name, {name: each}) for each in given if each)


def _renamed(name: str) -> str:
    """What a port of an installation of before is called now."""
    return {"guard": "controller"}.get(name, name)


def _saved(config: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(config.read_text())) if config.exists() else {}
    except (ValueError, TypeError):
        return {}


def _saved_ports(config: Path) -> dict[str, int]:
    if not config.exists():
        return {}
    known = {field.name for field in fields(Ports)}
    try:
        saved = {_renamed(name): port for name, port in dict(json.loads(config.read_text())["ports"]).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise Permanent(
            f"{config} is not readable: {error!r}", remedy="Delete it; `slipway up` writes it anew."
        ) from error
    # A file of another Slipway version may name ports that this one does not have.
    return {name: _port(f"{config}: {name}", port) for name, port in saved.items() if name in known}


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one installation. Constructing it touches nothing."""

    root: Path
    ports: Ports
    # How Envoys are told what the routes say (`serving.gateway.delivery.choice`).
    delivery: str = FILES
    # Where these are, if not on this machine; of several controllers, with commas between.
    controller_at: str = ""
    gateway_at: str = ""
    mlflow_at: str = ""
    airflow_at: str = ""

    @classmethod
    def locate(cls, environ: os._Environ[str] | dict[str, str] = os.environ) -> Home:
        """From `SLIPWAY_HOME` (its default is above), its config.json, `SLIPWAY_PORT_*` and the URLs.

        Raises `Permanent` when one of them is not readable as what it should be.
        """
        root = Path(environ.get("SLIPWAY_HOME") or default_root(environ)).resolve()
        ports = {**asdict(Ports()), **_saved_ports(root / "config.json")}
        if base := environ.get("SLIPWAY_PORT_BASE"):
            ports = asdict(Ports.from_base(_port("SLIPWAY_PORT_BASE", base)))
        for field in fields(Ports):
            name = f"SLIPWAY_PORT_{field.name.upper()}"
            if value := environ.get(name):
                ports[field.name] = _port(name, value)
        delivery = environ.get(DELIVERY) or _saved(root / "config.json").get(DELIVERY_KEY) or FILES
        elsewhere = (_url(name, environ) for name in (GATEWAY_URL, MLFLOW_URL, AIRFLOW_URL))
        return cls(root, Ports(**ports), str(delivery), _urls(CONTROLLER_URL, environ), *elsewhere)

    @property
    def airflow(self) -> Path:
        return self.root / "airflow"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def store(self) -> Path:
        """Artifacts, memos and bundles (`model_store.storage.store`)."""
        return self.root / "store"

    @property
    def routes(self) -> Path:
        """Envoy's EDS files: what it is told of routes (`serving.gateway.router.envoy_file`)."""
        return self.root / "envoy" / "routes"

    @property
    def envoy(self) -> Path:
        return self.root / "envoy"

    @property
    def late(self) -> Path:
        """What people did while the controller was away, until it takes it into the ledger
        (`serving.control.audit`)."""
        return self.root / "late"

    @property
    def freezes(self) -> Path:
        """When nothing rolls out: `calendar.yaml`, written by people (`serving.control.freezes`)."""
        return self.root / "freezes"

    @property
    def pods(self) -> Path:
        """One supervisord program file and one record per running pod (`serving.platforms.local`)."""
        return self.root / "pods"

    @property
    def platforms(self) -> Path:
        """Which platforms each service was put on (`serving.platforms.by_spec`)."""
        return self.root / "platforms"

    @property
    def requests(self) -> Path:
        """What pods write down of requests and answers, where a spec asks for it (`request_log`)."""
        return self.root / "requests"

    @property
    def api_keys(self) -> Path:
        """The clients of models whose spec says `api_keys`, mode 0600 (`serving.gateway.api_keys`)."""
        return self.root / "api-keys.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def dags(self) -> Path:
        """Airflow's DAG folder. Release specs are in `releases` below it.

        The installation's own if it has one (the demo's scenarios do), else the repository's. What pip
        installed is nothing to write specs into: there it is the own one (`serving.local_stack.prepare`).
        """
        own = self.root / "dags"
        return DAG_FILES if is_clone() and not own.is_dir() else own

    @property
    def cache(self) -> Path:
        """What was fetched from package registries and can be fetched again (`demo.fetch`)."""
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """supervisord's configuration, pid file and (where the path is short enough) socket."""
        return self.root / "run"

    @property
    def config(self) -> Path:
        """The settings that `slipway up` keeps: the ports."""
        return self.root / "config.json"

    @property
    def credentials(self) -> Path:
        """Keys and the Airflow login, made once, mode 0600 (`serving.credentials`)."""
        return self.root / "credentials.json"

    @property
    def controller_token(self) -> Path:
        """What who moves traffic has to show the controller, mode 0600 (`serving.credentials`)."""
        return self.root / "controller-token"

    @property
    def bundle_keys(self) -> Path:
        """What bundles are signed with, made once, mode 0600 (`model_store.signing`)."""
        return self.root / "bundle_keys.json"

    @property
    def mlflow_url(self) -> str:
        return self.mlflow_at or f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def airflow_url(self) -> str:
        return self.airflow_at or f"http://127.0.0.1:{self.ports.airflow}"

    @property
    def controller_urls(self) -> tuple[str, ...]:
        """Each controller's: one of them leads, and the others say which."""
        here = f"http://127.0.0.1:{self.ports.controller}"
        return tuple((self.controller_at or here).split(","))

    @property
    def controller_url(self) -> str:
        """The first one's."""
        return self.controller_urls[0]

    @property
    def gateway_url(self) -> str:
        return self.gateway_at or f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def envoy_admin(self) -> Path:
        """The socket of Envoy's admin interface, for its owner alone; of each Envoy here another."""
        usual = self.envoy / f"{self.ports.gateway}.sock"
        return private_socket(usual, named_after=usual)

    @property
    def redis(self) -> Path:
        """The socket of the stack's Redis, for its owner alone."""
        usual = self.run / "redis.sock"
        return private_socket(usual, named_after=usual)

    @property
    def envoy_stats_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.envoy_stats}"
