from __future__ import annotations

from pathlib import Path

import pytest

from model_store.release_spec import InvalidSpec, load
from model_store.release_spec.kubernetes import Kubernetes

SPEC = """\
model: fraud
source: {flavor: onnx}
data: {evaluation: a.csv, calibration: b.csv, label: bad}
rollout: {steps: [{weight: 100, hold_seconds: 60}]}
serving:
  target: kubernetes
  replicas: 2
  kubernetes:
"""


def read(tmp_path: Path, section: str) -> Kubernetes:
    (tmp_path / "fraud.yaml").write_text(SPEC + section)
    found = load(tmp_path / "fraud.yaml").serving.kubernetes
    assert found is not None
    return found


def test_every_field_is_read_as_kubernetes_writes_it(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """\
    namespace: models
    image: registry.example/slipway-pod:1
    image_pull_secrets: [registry]
    resources:
      requests: {cpu: 500m, memory: 1Gi, nvidia.com/mig-1g.5gb: 1}
      limits: {cpu: 2, memory: 1.5Gi, nvidia.com/mig-1g.5gb: 1}
    node_selector: {nvidia.com/gpu.product: A100-SXM4-40GB}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    priority_class: serving
    runtime_class: nvidia
    service_account: models
    autoscaling: {max_replicas: 7}
""",
    )
    assert found.resources is not None
    assert found.resources.devices == {"nvidia.com/mig-1g.5gb": 1}
    assert found.autoscaling is not None
    assert (found.namespace, found.autoscaling.cpu_percent) == ("models", 70)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("    resources: {limits: {memory: 4GB}}", "`4GB` is no quantity"),
        ("    resources: {limits: {nvidia.com/gpu: 0.5}}", "0.5 is no whole number"),
        ("    resources: {requests: {nvidia.com/gpu: 1}}", "give the same in limits"),
        ("    resources: {requests: {cpu: 2}, limits: {cpu: 1}}", "below the 2 that are requested"),
        ("    resources: {limits: {gpu: 1}}", "no resource"),
        ("    resources: {limits: {cpu: -1}}", "no quantity"),
        ("    namespace: Models", "namespace"),
        ("    priority_class: a.-b", "priority_class"),
        ("    node_selector: {gpu: a-}", "node_selector"),
        ("    tolerations: [{value: a}]", "`Equal` needs a key"),
        ("    autoscaling: {max_replicas: 1}", "max_replicas"),
        ("    replicas: 2", "replicas"),
    ],
)
def test_what_no_cluster_would_take_is_refused_with_its_line(tmp_path: Path, section: str, said: str) -> None:
    with pytest.raises(InvalidSpec, match=r"fraud.yaml:9: serving.kubernetes") as refused:
        read(tmp_path, section)
    assert said in refused.value.problem


def test_fewer_pods_at_most_than_it_begins_with_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fraud.yaml").write_text(
        SPEC.replace("replicas: 2", "replicas: 4") + "    autoscaling: {max_replicas: 3}"
    )
    with pytest.raises(InvalidSpec, match="below replicas 4"):
        load(tmp_path / "fraud.yaml")


def test_a_section_for_a_cluster_whose_pods_run_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fraud.yaml").write_text(SPEC.replace("target: kubernetes", "target: local") + "    image: a")
    with pytest.raises(InvalidSpec, match="set `target: kubernetes`"):
        load(tmp_path / "fraud.yaml")
