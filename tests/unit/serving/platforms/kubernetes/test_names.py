from __future__ import annotations

import re

import pytest

from serving.platforms.kubernetes import names
from serving.types import DeploymentRef, Slot

SERVICES = ["credit_risk", "Fraud.EU-2", "9lives", "a", "x" * 100, "A" + "._-" * 33]


def ref(service: str, slot: Slot = Slot.BLUE, bundle: str = "1f" * 12, version: int = 3) -> DeploymentRef:
    return DeploymentRef(service, slot, bundle, version)


@pytest.mark.parametrize("service", SERVICES)
def test_whatever_a_service_is_called_its_objects_have_names_and_labels_that_a_cluster_takes(
    service: str,
) -> None:
    name = names.object_name("slipway", ref(service))
    # A pod's name adds "-", ten characters, "-" and five, and is its host name.
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) + 17 <= 63
    for value in names.labels_of("slipway", ref(service)).values():
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value)


def test_what_differs_in_anything_has_another_name() -> None:
    alike = ["credit_risk", "credit-risk", "credit.risk", "Credit_Risk", "x" * 99, "x" * 100]
    refs = [ref(service) for service in alike]
    refs += [ref("a", Slot.GREEN), ref("a", bundle="2e" * 12), ref("a", version=4), ref("a")]
    found = {names.object_name(installation, each) for each in refs for installation in ("slipway", "other")}
    assert len(found) == 2 * len(refs)


def test_long_services_do_not_share_a_label() -> None:
    assert names.label_value("x" * 99) != names.label_value("x" * 100)


def test_what_a_deployment_runs_is_read_back_exactly() -> None:
    for service in SERVICES:
        wanted = ref(service)
        annotations = {names.EXACT_SERVICE: service, names.BUNDLE: wanted.bundle_id}
        found = {"metadata": {"labels": names.labels_of("slipway", wanted), "annotations": annotations}}
        assert names.ref_of(found) == wanted
