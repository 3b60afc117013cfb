"""What the demo asks of a cluster, before there is one: the spec, the overlay, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.acts import RISK
from demo.cluster import (
    ClusterOptions,
    Kubectl,
    environment_file,
    make_overlay,
    put_spec,
    require_bucket,
    spec_of,
    write_environment,
)
from demo.place import DemoHome, fresh_home
from model_store.errors import Permanent
from model_store.release_spec import load

OPTIONS = ClusterOptions(images="registry.example:5000/ml/slipway-{}:1.2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoHome:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    return fresh_home({"SLIPWAY_HOME": str(tmp_path / "demo")}, spec=spec_of(RISK))


def made(
    home: DemoHome, options: ClusterOptions = OPTIONS
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What kustomize is told, and what it is to make beside the base, by kind and name."""
    folder = make_overlay(home, RISK, options, "s3://models/demo")
    extra = json.loads((folder / "extra.yaml").read_text())["items"]
    named = {f"{each['kind']}/{each['metadata']['name']}": each for each in extra}
    return json.loads((folder / "kustomization.yaml").read_text()), named


def test_the_spec_differs_by_where_pods_run_alone(home: DemoHome) -> None:
    put_spec(home, RISK)
    own, repositorys = load(home.root / "dags" / "releases" / "credit_risk.yaml"), load(spec_of(RISK))
    assert own.serving.target == "kubernetes"
    same = repositorys.serving.model_copy(
        update={
            "target": own.serving.target,
            "ready_timeout_seconds": own.serving.ready_timeout_seconds,
        }
    )
    assert own.model_copy(update={"serving": same}) == repositorys.model_copy(update={"serving": same})


def test_images_are_named_with_their_registry_and_tag(home: DemoHome) -> None:
    said, extra = made(home)
    named = {each["name"]: (each["newName"], each["newTag"]) for each in said["images"]}
    assert named["slipway-gateway"] == ("registry.example:5000/ml/slipway-gateway", "1.2")
    settings = json.loads(extra["ConfigMap/slipway"]["data"]["kubernetes.yaml"])
    assert settings["defaults"]["image"] == "registry.example:5000/ml/slipway-pod:1.2"


def test_an_image_without_a_tag_is_refused(home: DemoHome) -> None:
    with pytest.raises(Permanent, match="has no tag"):
        made(home, replace(OPTIONS, images="registry.example:5000/slipway-{}"))


def test_pods_are_told_how_the_bucket_is_reached_and_may_reach_its_port_alone(
    home: DemoHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "writer")
    _, extra = made(home)
    told = extra["Secret/slipway-storage"]["stringData"]
    assert (told["AWS_ACCESS_KEY_ID"], told["SLIPWAY_STORAGE_URL"]) == ("writer", "s3://models/demo")
    (rule,) = extra["NetworkPolicy/bundles"]["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9000}]
    assert rule["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]


def test_the_controller_is_where_this_machines_files_are_and_starts_the_failing_pods(home: DemoHome) -> None:
    said, _ = made(home, replace(OPTIONS, node="kind-control-plane"))
    (patch,) = [each["patch"] for each in said["patches"] if each["target"].get("name")]
    changes = {each["path"]: each["value"] for each in json.loads(patch)}
    assert changes["/spec/template/spec/nodeSelector"] == {"kubernetes.io/hostname": "kind-control-plane"}
    assert changes["/spec/template/spec/volumes/0"]["hostPath"] == {"path": str(home.root)}
    assert changes["/spec/template/spec/containers/0/env/-"]["value"] == RISK.faults


def test_what_is_patched_is_what_the_base_has(home: DemoHome) -> None:
    """Patches go by number: another order of volumes would put the home elsewhere."""
    base = make_overlay(home, RISK, OPTIONS, "s3://models/demo") / "base" / "controller.yaml"
    (deployment,) = [each for each in yaml.safe_load_all(base.read_text()) if each["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    assert spec["volumes"][0]["name"] == "home"
    assert [each["name"] for each in spec["containers"]] == ["controller"]


def test_an_api_server_that_is_busy_is_asked_again_and_a_refusal_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\n"
        f"echo asked >> {tmp_path}/asked\n"
        '[ "$1" = delete ] && { echo "Error from server (Forbidden)" >&2; exit 1; }\n'
        f"[ $(wc -l < {tmp_path}/asked) = 1 ] && {{ echo 'net/http: TLS handshake timeout' >&2; exit 1; }}\n"
        "echo here\n"
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("demo.cluster.time.sleep", lambda seconds: None)
    cluster = Kubectl("demo")
    assert cluster("config", "current-context") == "here\n"
    asked = len((tmp_path / "asked").read_text().splitlines())
    with pytest.raises(Permanent, match="Forbidden"):
        cluster("delete", "namespace", "demo")
    assert (asked, len((tmp_path / "asked").read_text().splitlines())) == (2, 3)


@pytest.mark.parametrize("url", ["", "file:///var/models"])
def test_without_a_bucket_it_says_what_to_set(url: str) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_STORAGE_URL names none") as refused:
        require_bucket({"SLIPWAY_STORAGE_URL": url})
    assert "s3://BUCKET/PREFIX" in refused.value.remedy


def test_a_shell_is_told_how_to_speak_to_it_and_nobody_else_reads_it(home: DemoHome) -> None:
    write_environment(home, {"SLIPWAY_CONTROLLER_URL": "http://127.0.0.1:30000"})
    path = environment_file(home)
    assert path.stat().st_mode & 0o077 == 0
    lines = path.read_text().splitlines()
    assert f"export SLIPWAY_HOME='{home.root}'" in lines
    assert "export SLIPWAY_CONTROLLER_URL='http://127.0.0.1:30000'" in lines
