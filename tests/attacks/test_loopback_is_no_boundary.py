"""Whoever runs a process on the machine, or has another fetch an address, asks what is there on loopback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from serving.home import Home, Ports
from serving.local_stack.prepare import prepare
from serving.platforms import redis as platform_redis
from serving.supervision.component import Component
from serving.supervision.supervisor import configuration_path
from tests.pods import running_pod
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.pod.held_engine import eventually
from tests.unit.serving.pod.test_shared_cache import RedisServer, bundle, knows_its_epoch, redis_server, row

OURS = "http://127.0.0.1:8480/slipway/webhooks/mlflow"
__all__ = ["bundle", "redis_server"]


@pytest.mark.parametrize("path", ["/quitquitquit", "/reset_counters", "/drain_listeners", "/config_dump"])
def test_envoy_is_told_nothing_on_any_of_its_ports(gateway: Gateway, path: str) -> None:
    assert gateway.process
    ports = {
        each.laddr.port
        for each in psutil.Process(gateway.process.pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    assert {gateway.home.ports.gateway, gateway.home.ports.envoy_stats} <= ports
    for port in ports:
        for method in ("POST", "GET"):
            answer = httpx.request(method, f"http://127.0.0.1:{port}{path}")
            assert answer.status_code in (403, 404, 405), (port, answer.text)
    assert gateway.process.poll() is None


def test_envoys_admin_socket_is_its_users_alone(gateway: Gateway) -> None:
    assert gateway.home.envoy_admin.stat().st_mode & 0o077 == 0


def test_others_of_the_machine_read_nothing_of_an_installation(tmp_path: Path) -> None:
    """Request logs, MLflow's database and models were as readable as the umask made them."""
    home = Home(tmp_path / "home", Ports(pods_from=18600))
    home.mlflow.mkdir(parents=True)
    home.root.chmod(0o755)
    writing = "import sys; open(sys.argv[1], 'w').close()"
    made = home.mlflow / "mlflow.db"
    writer = Component("writer", (sys.executable, "-c", writing, str(made)))
    prepare(home, [writer])
    assert home.root.stat().st_mode & 0o077 == 0
    config = configuration_path(home)
    # As supervisord runs it, without what `launch` prepares for a component of the stack.
    config.write_text(re.sub(r"command=.*", f"command={shlex.join(writer.argv)}", config.read_text()))
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)]
    ) as daemon:
        try:
            assert eventually(made.exists)
        finally:
            daemon.terminate()
    assert made.stat().st_mode & 0o077 == 0


def test_a_forged_answer_in_redis_is_nobodys(bundle: Path, redis_server: RedisServer) -> None:
    """Who reaches Redis wrote what users were answered, or put one row's answer under another's key."""
    rows = [row(1, 2, 3, 4), row(9, 9, 9, 9)]
    with redis.from_url(redis_server.url) as client:
        with running_pod(bundle, redis=redis_server.url) as pod:
            assert eventually(lambda: knows_its_epoch(pod))
            honest = [pod.infer(each).json()["outputs"] for each in rows]
            assert honest[0] != honest[1]
            assert eventually(lambda: len(client.keys("slipway:answer:*")) == 2)
        one, other = client.keys("slipway:answer:*")
        kept = client.get(one)
        client.set(one, client.get(other))
        client.set(other, kept)
        with running_pod(bundle, redis=redis_server.url) as pod:
            assert eventually(lambda: knows_its_epoch(pod))
            assert [pod.infer(each).json()["outputs"] for each in rows] == honest


def test_the_stacks_redis_is_its_users_alone(tmp_path: Path) -> None:
    home = Home(tmp_path, Ports())
    home.run.mkdir()
    with subprocess.Popen(platform_redis.component(home).argv, stdout=subprocess.DEVNULL) as server:
        try:
            assert eventually(home.redis.exists)
            assert home.redis.stat().st_mode & 0o077 == 0
            with redis.from_url(platform_redis.url_of(home)) as client:
                assert client.ping()
            assert not psutil.Process(server.pid).net_connections("tcp")
        finally:
            server.terminate()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8483/quitquitquit",
        "http://localhost:8480/slipway/webhooks/mlflow",
        "http://127.0.0.1:8480/slipway/webhooks/mlflow?x=1",
        "http://127.0.0.1:8480@169.254.169.254/",
    ],
)
def test_mlflows_webhooks_fetch_no_address_that_somebody_names(url: str) -> None:
    """It answered with what it got. Where MLflow allows private addresses, it allowed all of these."""
    script = f"""
from mlflow.exceptions import MlflowException
from serving.local_stack import mlflow_webhooks
for asked in mlflow_webhooks._ASKED_IN:
    asked._validate_webhook_url({url!r})
mlflow_webhooks.allow_only({OURS!r})
for asked in mlflow_webhooks._ASKED_IN:
    asked._validate_webhook_url({OURS!r})
    try:
        asked._validate_webhook_url({url!r})
    except MlflowException as refused:
        assert {OURS!r} in str(refused)
    else:
        raise AssertionError("it fetches any address")
"""
    private = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
    # Its libraries warn of each other.
    environ = {**os.environ, **private}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
