"""The sections `serving.kubernetes` and `build.kubernetes`: what pods ask of a cluster, by its own names.

A platform team gives the same fields for all models (docs/kubernetes.md); what a spec says goes before it.
Nothing here asks a cluster: whether there is such a priority class or so much room, the cluster says.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from model_store.release_spec.section import Found, Section

_UNITS: dict[str, int | Decimal] = {
    "": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
# Devices are counted whole, are never lent twice, and have their vendor's name (`nvidia.com/gpu`).
_DEVICE = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9._-]+")

_SIDES = ("requests", "limits")

# Of Kubernetes' own grammar: an object's name, a label's key and value.
_PART = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_SHORT = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
Name = Annotated[str, StringConstraints(max_length=253, pattern=rf"^{_PART}(\.{_PART})*$")]
Namespace = Annotated[str, StringConstraints(max_length=63, pattern=rf"^{_PART}$")]
LabelKey = Annotated[str, StringConstraints(max_length=317, pattern=rf"^({_PART}(\.{_PART})*/)?{_SHORT}$")]
LabelValue = Annotated[str, StringConstraints(pattern=rf"^({_SHORT})?$")]
Quantity = str | int | float


def amount(quantity: Quantity) -> Decimal:
    """`"500m"` is 0.5, `"2Gi"` 2147483648. Raises `ValueError`."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"`{quantity}` is no quantity of Kubernetes, such as 2, 500m or 4Gi")
    return Decimal(found[1]) * _UNITS[found[2] or ""]


class Resources(Section):
    """What each pod is given (`requests`) and what it may use (`limits`), by resource.

    `cpu`, `memory`, `ephemeral-storage`, and devices by their vendor's name: `nvidia.com/gpu`, or a MIG
    profile such as `nvidia.com/mig-1g.5gb`.
    """

    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)

    def contradictions(self) -> list[Found]:
        found: list[Found] = []
        for side in _SIDES:
            for resource, quantity in getattr(self, side).items():
                if wrong := _wrong(resource, quantity):
                    found.append(((side, resource), wrong))
        return found or self._disagreements()

    def _disagreements(self) -> list[Found]:
        found: list[Found] = []
        for resource, requested in self.requests.items():
            limit = self.limits.get(resource)
            if _DEVICE.fullmatch(resource) and (limit is None or amount(limit) != amount(requested)):
                found.append((("requests", resource), "a device is not shared: give the same in limits"))
            elif limit is not None and amount(limit) < amount(requested):
                found.append((("limits", resource), f"below the {requested} that are requested"))
        return found

    @property
    def devices(self) -> dict[str, Quantity]:
        return {name: count for name, count in self.limits.items() if _DEVICE.fullmatch(name)}


class Toleration(Section):
    """A taint of nodes that the pods put up with, as in a pod's own `tolerations`."""

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    def contradictions(self) -> list[Found]:
        if self.operator == "Exists" and self.value is not None:
            return [(("value",), "`Exists` looks at no value")]
        if self.operator == "Equal" and self.key is None:
            return [(("key",), "`Equal` needs a key; `operator: Exists` alone tolerates everything")]
        return []


class Autoscaling(Section):
    """Between `serving.replicas` and `max_replicas` pods, as many as keep their processors at `cpu_percent`
    of what they request."""

    max_replicas: Annotated[int, Field(ge=2, le=1000)]
    cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 70


class Pods(Section):
    """Where and how pods run in a cluster. Whatever is left out, the installation says."""

    namespace: Namespace | None = None
    image: Annotated[str, StringConstraints(min_length=1, pattern=r"^\S+$")] | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: tuple[Name, ...] | None = None
    resources: Resources | None = None
    node_selector: dict[LabelKey, LabelValue] | None = None
    tolerations: tuple[Toleration, ...] | None = None
    priority_class: Name | None = None
    runtime_class: Name | None = None
    service_account: Name | None = None


class Kubernetes(Pods):
    """The pods of one service."""

    autoscaling: Autoscaling | None = None


StageName = Literal["export", "quantize", "compile", "gate"]


class StagePods(Pods):
    """The pods of a stage. `schedule_timeout_seconds`: how long one may wait for room in the cluster;
    `active_deadline_seconds`: and then take."""

    active_deadline_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    schedule_timeout_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None


class BuildKubernetes(StagePods):
    """The pods of all stages, and in `stages` what one of them needs otherwise: a GPU for `gate`, say."""

    stages: dict[StageName, StagePods] = Field(default_factory=dict)

    def of(self, stage: StageName) -> StagePods:
        """What one stage asks for."""
        return over(self, self.stages.get(stage, StagePods()))


def over(general: StagePods, exact: StagePods) -> StagePods:
    """What `exact` says, and `general` where that says nothing; of resources, one by one."""
    said = [
        {name: value for name in StagePods.model_fields if (value := getattr(one, name)) is not None}
        for one in (general, exact)
    ]
    merged = said[0] | said[1]
    if general.resources and exact.resources:
        both = (general.resources, exact.resources)
        requests, limits = ({**getattr(both[0], side), **getattr(both[1], side)} for side in _SIDES)
        merged["resources"] = Resources.model_construct(requests=requests, limits=limits)
    return StagePods.model_construct(**merged)


def _wrong(resource: str, quantity: Quantity) -> str:
    is_device = _DEVICE.fullmatch(resource)
    if not is_device and resource not in ("cpu", "memory", "ephemeral-storage"):
        return "no resource: give cpu, memory, ephemeral-storage, or a device such as nvidia.com/gpu"
    try:
        number = amount(quantity)
    except ValueError as error:
        return str(error)
    if is_device and (number != int(number) or number < 1):
        return f"devices are counted whole, and {quantity} is no whole number of them"
    return "" if number > 0 else "more than nothing"
