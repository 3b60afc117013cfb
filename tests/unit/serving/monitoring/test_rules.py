"""The rules do what they say (promtool), and every metric in them exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from model_store.installation import ROOT as REPOSITORY
from serving.control.controller.exposition import ControllerCollector
from serving.control.controller.tick import Controller
from serving.control.rollout.journal import KeptJournal
from serving.gateway.router.memory import MemoryRouter
from serving.home import Home, Ports
from serving.ledger.memory import MemoryLedger
from serving.monitoring.config import Options, dashboards, rules, write
from tests.tools import AMTOOL, PROMTOOL, require

HERE = Path(__file__).parent

# Of exporters that are not ours: DCGM, node, blackbox, Envoy itself, and Prometheus' `up`.
FOREIGN = {
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_FREE",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "probe_ssl_earliest_cert_expiry",
    "envoy_server_days_until_first_cert_expiring",
    "up",
}


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def written(tmp_path: Path) -> Path:
    home = Home(tmp_path / "home", Ports())
    write(home, tmp_path / "monitoring", Options(notify_url="http://127.0.0.1:9/people"))
    return tmp_path / "monitoring"


@pytest.mark.parametrize("name", ["alerts.test.yml", "traffic.test.yml"])
def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path, name: str) -> None:
    for file, text in rules().items():
        (tmp_path / file).write_text(text)
    shutil.copy(HERE / name, tmp_path)
    run(require(PROMTOOL), "test", "rules", name, cwd=tmp_path)


def test_prometheus_takes_the_configuration_and_the_rules(written: Path) -> None:
    run(require(PROMTOOL), "check", "config", "prometheus.yml", cwd=written)


def test_alertmanager_takes_its_configuration(written: Path) -> None:
    run(require(AMTOOL), "check-config", "alertmanager.yml", cwd=written)


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["alertname=ModelErrorRateHigh", "model=fraud", "action=rollback"], "airflow,people"),
        (["alertname=GpuBusy", "severity=ticket"], "people"),
        (["alertname=ModelErrorRateHigh", "model=fraud", "action=restart"], "people"),
    ],
)
def test_only_alerts_that_ask_for_a_rollback_reach_airflow(
    written: Path, labels: list[str], receivers: str
) -> None:
    amtool = require(AMTOOL)
    command = [amtool, "config", "routes", "test", "--config.file=alertmanager.yml", *labels]
    told = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == receivers


def test_every_alert_says_how_bad_it_is_and_what_to_know() -> None:
    alerts = [rule for group in yaml.safe_load(rules()["alerts.yml"])["groups"] for rule in group["rules"]]
    assert len(alerts) == len({alert["alert"] for alert in alerts}) >= 15
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} <= alert["annotations"].keys()


def test_what_asks_for_a_rollback_names_the_model_it_is_about() -> None:
    groups = yaml.safe_load(rules()["alerts.yml"])["groups"]
    asking = [rule["expr"] for group in groups for rule in group["rules"] if rule["labels"].get("action")]
    assert asking
    assert all(re.match(r"model(_version)?:", expression) for expression in asking)


def exposed(tmp_path: Path) -> set[str]:
    """What the controller and the pods say under which names, and what the gateway's scrape is renamed to."""
    router = MemoryRouter()
    controller = Controller(KeptJournal(MemoryLedger()), router, None, now=None, monotonic=None)  # type: ignore[arg-type]
    controller_names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in ControllerCollector(controller).collect()
    }
    pod_source = (REPOSITORY / "serving/pod/exposition.py").read_text()
    pod_names = set(re.findall(r'"(slipway_\w+)"', pod_source))
    histograms = {
        f"{name}_{part}"
        for name in pod_names
        if name.endswith(("_seconds", "_rows"))
        for part in ("bucket", "sum", "count")
    }
    return controller_names | pod_names | histograms | {"slipway_gateway_requests_total"}


def named(expression: str) -> set[str]:
    """Metric names in a PromQL expression (not labels, functions or keywords)."""
    bare = re.sub(
        r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|ignoring|without|offset)\s*(?:\([^)]*\)|\w+)',
        " ",
        expression,
    )
    words = set(re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\()\b", bare))
    return {word for word in words if ":" in word or "_" in word or word == "up"} - _FUNCTIONS


_FUNCTIONS = {"histogram_quantile", "predict_linear", "max_over_time"}


def test_every_metric_in_the_rules_and_dashboards_exists(tmp_path: Path) -> None:
    groups = [group for text in rules().values() for group in yaml.safe_load(text)["groups"]]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    used = {name for group in groups for rule in group["rules"] for name in named(rule["expr"])}
    for text in dashboards().values():
        for panel in json.loads(text)["panels"]:
            used |= {name for target in panel.get("targets", ()) for name in named(target["expr"])}
    assert used - recorded - exposed(tmp_path) - FOREIGN == set()
    assert {"slipway_requests_total", "slipway_controller_ticks_total"} <= used


def test_dashboards_are_what_grafana_imports() -> None:
    assert dashboards()
    for text in dashboards().values():
        board = json.loads(text)
        assert board["title"]
        assert board["schemaVersion"] >= 36
        places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
        assert len(places) == len(set(places))
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_queries_of_the_dashboards_are_promql(tmp_path: Path) -> None:
    expressions = [
        target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
        for text in dashboards().values()
        for panel in json.loads(text)["panels"]
        for target in panel.get("targets", ())
    ]
    made = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    run(require(PROMTOOL), "check", "rules", "panels.yml", cwd=tmp_path)


def test_the_token_is_for_its_owner_only_and_is_not_the_secret_itself(written: Path) -> None:
    token = written / "alert-token"
    assert token.stat().st_mode & 0o777 == 0o600
    saved = json.loads((written.parent / "home" / "credentials.json").read_text())
    assert token.read_text() not in saved.values()
    assert len(token.read_text()) == 64
