"""What can never run in a cluster is refused before a cluster is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_store.attestation import Trusted
from model_store.errors import Permanent
from model_store.types import Bundle, GateReport, ModelRef
from serving.home import Home, Ports
from serving.platforms.base import DeploymentSpec
from serving.platforms.kubernetes.deployment import deployment
from serving.platforms.kubernetes.installation import Installation, read_installation
from serving.platforms.kubernetes.wanted import DesiredDeployment, wanted_of
from serving.types import DeploymentRef, Slot

SET_UP = {"bundles": {"url": "s3://models"}, "defaults": {"image": "pods:1"}}


def installation(tmp_path: Path, **said: Any) -> Installation:
    (tmp_path / "kubernetes.yaml").write_text(json.dumps({**SET_UP, **said}))
    return read_installation(Home(tmp_path, Ports()), {})


def wanted(
    tmp_path: Path, said: Installation, serving: dict[str, Any] | None = None, **manifest: Any
) -> DesiredDeployment:
    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"serving": serving or {}, **manifest}))
    (folder / "model.onnx").write_bytes(bytes(10 * 2**20))
    bundle = Bundle("ab" * 12, ModelRef("fraud", 1), (), GateReport("", ()), folder)
    ref = DeploymentRef("fraud", Slot.BLUE, bundle.id, 1)
    return wanted_of(ref, DeploymentSpec(bundle, 2), said, "", Trusted((bytes(32),)))


@pytest.mark.parametrize(
    ("said", "serving", "manifest", "problem"),
    [
        ({"defaults": {}}, {}, {}, "no image of pods is named"),
        ({"bundles": None}, {}, {}, "get their bundles is not said"),
        ({}, {"cache": {"shared": True}}, {}, "wants a Redis"),
        ({}, {"kubernetes": {"namespace": "theirs"}}, {}, "this one names `theirs`"),
        ({}, {"kubernetes": {"gpus": 1}}, {}, "not readable here"),
        ({}, {}, {"platform": "python"}, "has no wheels"),
    ],
)
def test_it_says_what_is_missing(
    tmp_path: Path, said: dict[str, Any], serving: dict[str, Any], manifest: dict[str, Any], problem: str
) -> None:
    with pytest.raises(Permanent, match=problem) as refused:
        wanted(tmp_path, installation(tmp_path, **said), serving, **manifest)
    assert refused.value.remedy


def test_a_wrong_line_of_the_installations_file_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"kubernetes.yaml:1: notice_second.*") as refused:
        installation(tmp_path, notice_second=5)
    assert "docs/kubernetes.md" in refused.value.remedy


def test_bundles_are_where_the_installation_keeps_them_unless_its_file_says_otherwise(tmp_path: Path) -> None:
    kept = {"SLIPWAY_STORAGE_URL": "s3://kept/here"}
    home = Home(tmp_path, Ports())
    found = read_installation(home, kept)
    assert found.bundles is not None
    assert found.bundles.url == "s3://kept/here"
    assert read_installation(home, {"SLIPWAY_STORAGE_URL": "file:///of/this/machine"}).bundles is None


def container(of: DesiredDeployment, said: Installation) -> dict[str, Any]:
    found: dict[str, Any] = deployment(of, said, replicas=of.replicas)["spec"]["template"]["spec"][
        "containers"
    ][0]
    return found


def test_a_pod_is_sized_by_its_bundle_and_threads_where_the_spec_says_nothing(tmp_path: Path) -> None:
    said = installation(tmp_path)
    found = container(wanted(tmp_path, said, {"threads": 2}), said)["resources"]
    assert found["requests"]["cpu"] == "2"
    assert 512 + 30 <= int(found["requests"]["memory"].removesuffix("Mi")) <= 512 + 32
    assert found["limits"] == {"memory": found["requests"]["memory"]}


def test_what_a_spec_says_of_resources_goes_before_what_is_usual(tmp_path: Path) -> None:
    said = installation(tmp_path)
    asked = {"limits": {"cpu": "500m", "nvidia.com/gpu": 1}, "requests": {"memory": "1Gi"}}
    found = container(wanted(tmp_path, said, {"kubernetes": {"resources": asked}}), said)["resources"]
    assert found == {
        "requests": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"},
        "limits": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"},
    }


def test_the_startup_probe_gives_a_large_model_the_time_that_its_spec_does(tmp_path: Path) -> None:
    said = installation(tmp_path)
    probe = container(wanted(tmp_path, said, {"ready_timeout_seconds": 900}), said)["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 900


def test_a_pod_has_the_time_to_hear_and_to_drain_before_it_is_killed(tmp_path: Path) -> None:
    said = installation(tmp_path, notice_seconds=7, drain_seconds=40)
    spec = deployment(wanted(tmp_path, said), said, replicas=2)["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > 47
    assert spec["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert spec["containers"][0]["args"][-2:] == ["40", "--answer-warm-rows"]
