"""The configuration files of Prometheus and Alertmanager for one installation, and which pods to scrape:
those that stand in a route, wherever they run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from model_store.durable import write_file
from model_store.errors import SlipwayError
from serving.credentials import write_secret
from serving.gateway.router.base import TrafficRouter
from serving.home import Home
from serving.inbound.secrets import secrets_of
from serving.monitoring.incidents import alert_token
from serving.types import Route

ALERTS_PATH = "/slipway/alerts"
PREVIEW = r".+\.(candidate|stable|retrying|streams)"  # clusters of `serving.gateway.clusters`, no services
_REQUESTS = "external_upstream_rq_xx"

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """Where the others listen. `notify_url` gets every alert as Alertmanager's webhook JSON, for people.

    `envoys`, `controller`: where they are not on this machine. `alert_token`: where Alertmanager finds the
    token's file, if that is not where it was written.
    """

    alertmanager: str = "127.0.0.1:9093"
    node_exporters: tuple[str, ...] = ("127.0.0.1:9100",)
    gpu_exporters: tuple[str, ...] = ("127.0.0.1:9400",)
    envoys: tuple[str, ...] = ()
    controller: str = ""
    alert_token: str = ""
    notify_url: str | None = None
    interval_seconds: int = 5


def write(home: Home, folder: Path, options: Options) -> list[Path]:
    """Write all files into `folder`, the token readable by its owner only. Returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "alert-token"
    write_secret(token, alert_token(secrets_of(home).current))
    texts = {
        "prometheus.yml": _yaml(prometheus(home, options)),
        "alertmanager.yml": _yaml(alertmanager(home, Path(options.alert_token or token), options)),
        **{f"rules/{name}": text for name, text in rules().items()},
        **{f"dashboards/{name}": text for name, text in dashboards().items()},
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_file(folder / name, text.encode())
    return [token, *(folder / name for name in texts)]


def rules() -> dict[str, str]:
    """Recording and alerting rules, by file name."""
    return _texts("rules", ".yml")


def dashboards() -> dict[str, str]:
    """Grafana dashboards, by file name."""
    return _texts("dashboards", ".json")


def prometheus(home: Home, options: Options) -> Message:
    """Scrapes the gateway, the controller, every pod in a route, and the machine's exporters."""
    controller = options.controller or f"127.0.0.1:{home.ports.controller}"
    envoys = options.envoys or (f"127.0.0.1:{home.ports.envoy_stats}",)
    return {
        "global": {
            "scrape_interval": f"{options.interval_seconds}s",
            "scrape_timeout": f"{min(options.interval_seconds, 5)}s",
            "evaluation_interval": f"{options.interval_seconds}s",
        },
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [_static(options.alertmanager)]},
        "scrape_configs": [
            _gateway(envoys),
            {"job_name": "slipway-controller", "static_configs": [_targets(controller)]},
            {
                "job_name": "slipway-pods",
                "http_sd_configs": [{"url": f"http://{controller}/targets", "refresh_interval": "5s"}],
            },
            {"job_name": "node", "static_configs": [_targets(*options.node_exporters)]},
            {"job_name": "gpu", "static_configs": [_targets(*options.gpu_exporters)]},
        ],
    }


def _gateway(admins: tuple[str, ...]) -> Message:
    """Envoy's thousand counters per service come down to what users were answered, and its own health.

    Envoy takes a dot in a service's name for the end of it, so the name is put together again.
    """
    return {
        "job_name": "slipway-gateway",
        "metrics_path": "/stats/prometheus",
        "params": {"filter": [r"^(cluster\..+\.external\.upstream_rq_\dxx|server\.|http\.gateway\.)"]},
        "static_configs": [_targets(*admins)],
        "metric_relabel_configs": [
            _relabel("model", "$2", rf"envoy_cluster_({_REQUESTS});(.+)", "__name__", "envoy_cluster_name"),
            _relabel(
                "model", "$2.$1", rf"envoy_cluster_(.+)_{_REQUESTS};(.+)", "__name__", "envoy_cluster_name"
            ),
            {"source_labels": ["model"], "regex": rf"{PREVIEW}|\(admin\)", "action": "drop"},
            _relabel("class", "$1", "(.+)", "envoy_response_code_class"),
            _relabel(
                "__name__", "slipway_gateway_requests_total", rf"envoy_cluster_(.+_)?{_REQUESTS}", "__name__"
            ),
            {"regex": "envoy_cluster_name|envoy_response_code_class", "action": "labeldrop"},
        ],
    }


def alertmanager(home: Home, token: Path, options: Options) -> Message:
    """People hear of everything; what asks for a rollback goes to Airflow first."""
    return {
        "route": {
            "receiver": "people",
            "group_by": ["alertname", "model", "service", "release"],
            "group_wait": "5s",
            "group_interval": "30s",
            "repeat_interval": "4h",
            "routes": [
                {
                    "matchers": ['action="rollback"'],
                    "receiver": "airflow",
                    "group_by": ["alertname", "model"],
                    "group_wait": "0s",
                    "repeat_interval": "5m",
                    "continue": True,
                },
                {"receiver": "people"},
            ],
        },
        "inhibit_rules": [
            _inhibit("ControllerSilent", "ControllerBlind|ReleaseNotObserved"),
            _inhibit("ModelTrafficGone", "ModelTrafficDown", "model"),
        ],
        "receivers": [
            {"name": "people", **_people(options)},
            {
                "name": "airflow",
                "webhook_configs": [
                    {
                        "url": home.airflow_url + ALERTS_PATH,
                        "send_resolved": False,
                        "max_alerts": 100,
                        "http_config": {
                            "authorization": {"type": "Bearer", "credentials_file": str(token)},
                            "follow_redirects": False,
                        },
                    }
                ],
            },
        ],
    }


def _people(options: Options) -> Message:
    return {"webhook_configs": [{"url": options.notify_url}]} if options.notify_url else {}


def _inhibit(source: str, target: str, *equal: str) -> Message:
    return {
        "source_matchers": [f'alertname="{source}"'],
        "target_matchers": [f'alertname=~"{target}"'],
        "equal": list(equal),
    }


def _static(*addresses: str) -> Message:
    return {"static_configs": [_targets(*addresses)]}


def _targets(*addresses: str) -> Message:
    return {"targets": list(addresses)}


def _relabel(target: str, replacement: str, regex: str, *sources: str) -> Message:
    return {
        "source_labels": list(sources),
        "regex": regex,
        "target_label": target,
        "replacement": replacement,
    }


def _texts(folder: str, suffix: str) -> dict[str, str]:
    found = (files(__package__) / folder).iterdir()
    return {file.name: file.read_text() for file in found if file.name.endswith(suffix)}


def _yaml(message: Message) -> str:
    return "# Written by `python -m serving.monitoring`; changes here are lost.\n" + yaml.safe_dump(
        message, sort_keys=False
    )


def targets(router: TrafficRouter) -> list[dict[str, Any]]:
    """All routes' endpoints in Prometheus' HTTP service discovery format, a group per deployment.

    A service whose route cannot be read is left out: one broken file must not blind us to all others.
    https://prometheus.io/docs/prometheus/latest/http_sd/
    """
    groups = []
    for service in router.services():
        try:
            groups += _groups(router.read(service))
        except SlipwayError:
            continue
    return groups


def _groups(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "targets": [str(endpoint) for endpoint in deployment.endpoints],
            "labels": {"service": route.service, "slot": str(deployment.slot)},
        }
        for deployment in (route.stable, route.candidate)
        if deployment
    ]
