"""What the cluster's own sentences mean: in a person's words, what can be done, and whether waiting heals it.

The sentences are the scheduler's, the kubelet's, the container runtime's and admission's. What is not
recognised is handed on as it is, and waited for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from model_store.release_spec.kubernetes import amount


@dataclass(frozen=True, slots=True)
class Trouble:
    """`is_final`: no waiting heals it."""

    reason: str
    remedy: str
    is_final: bool = False


# A registry that is away, slow or busy. Looked for first: such sentences hold words of the others, too.
_PASSING_PULL = (
    "qps exceeded", "too many requests", "toomanyrequests", "timeout", "timed out",
    "connection refused", "connection reset", "no such host", "server misbehaving",
    "temporary failure", "tls handshake",
    "500 internal", "502 bad", "503 service", "504 gateway", "unexpected eof", "deadline exceeded",
)  # fmt: skip
_FINAL_PULL = (
    "not found", "manifest unknown", "name unknown", "unauthorized", "authorization failed", "denied",
    "authentication required", "no basic auth", "forbidden", "invalid reference", "couldn't parse image",
    "does not exist", "no match for platform", "not present with pull policy of never",
)  # fmt: skip


def image_trouble(image: str, said: str) -> Trouble:
    """Of an image that was not pulled. `said`: by the kubelet or the runtime, maybe nothing."""
    # An image may be called anything, also after an error.
    lower = said.replace(image, "").lower()
    passing = any(each in lower for each in _PASSING_PULL)
    is_final = not passing and any(each in lower for each in _FINAL_PULL)
    remedy = (
        "correct `image` or `image_pull_secrets` in the spec's serving.kubernetes or in kubernetes.yaml"
        if is_final
        else "wait: the node tries again; look whether the registry can be reached from it"
    )
    return Trouble(f"the image {image} cannot be pulled: {said or 'no reason given'}", remedy, is_final)


_PART = re.compile(r"(\d+) (Insufficient (?P<resource>\S+)|node\(s\) (?P<why>.*)|(?P<other>.*))")


def unschedulable(pod: str, said: str, requests: dict[str, str]) -> Trouble:
    """Of `0/3 nodes are available: 2 Insufficient cpu, 1 node(s) had untolerated taint {a: b}.`

    Waiting for room is no failure: who has it now may end, and nodes may be added.
    """
    head, _, parts = re.split(r" preemption:| no new claims to deallocate", said)[0].partition(
        "nodes are available:"
    )
    nodes = head.strip().rpartition("/")[2].strip()
    words = [_lacking(each.strip(" ."), requests) for each in _split(parts)]
    if not nodes.isdigit() or not words:
        reason = f"no node takes the pod {pod}: {said or 'the scheduler has not looked yet'}"
    else:
        reason = f"none of {nodes} nodes can take the pod {pod}: {', '.join(words)}"
    return Trouble(reason, "add or free such nodes, or change serving.kubernetes (resources, node_selector)")


def _split(parts: str) -> list[str]:
    """At commas that begin another count; taints hold commas of their own."""
    return [each for each in re.split(r", (?=\d+ )", parts.strip()) if each]


def _lacking(part: str, requests: dict[str, str]) -> str:
    found = _PART.fullmatch(part)
    if found is None:
        return part
    count = found[1]
    if resource := (found["resource"] or "").rstrip(".,"):
        asks = f" (it asks for {requests[resource]})" if resource in requests else ""
        return f"{count} {'lacks' if count == '1' else 'lack'} {resource}{asks}"
    why = found["why"] or found["other"] or ""
    if "didn't match Pod's node affinity/selector" in why:
        return f"{count} without the labels of its node_selector"
    if "untolerated taint" in why:
        taint = re.search(r"\{.*", why)
        return (
            f"{count} with a taint that it does not tolerate {taint[0].rstrip('.') if taint else ''}".strip()
        )
    return f"{count} {why}"


_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)")
_NEVER_CREATED = (
    "violates podsecurity", "denied the request", "must specify", "usage per", "no priorityclass",
    "serviceaccount", "runtimeclass", "is forbidden", "is invalid",
)  # fmt: skip


def not_created(said: str) -> Trouble:
    """Why the cluster makes no pod: what the ReplicaSet says. A full quota empties again, a rule stays."""
    if found := _QUOTA.search(said):
        return _quota(*found.groups())
    lower = said.lower()
    # The webhook's own server is away: who asks again may be answered.
    if "failed calling webhook" in lower or "internal error" in lower or "timeout" in lower:
        return Trouble(f"the cluster cannot decide about the pods: {said}", "wait, or repair that webhook")
    is_final = any(each in lower for each in _NEVER_CREATED)
    remedy = "change serving.kubernetes in the spec or kubernetes.yaml, or that rule of the cluster"
    return Trouble(f"the cluster admits no such pod: {_shortened(said)}", remedy, is_final)


def _quota(name: str, requested: str, used: str, limited: str) -> Trouble:
    asked, taken, most = map(_amounts, (requested, used, limited))
    words, never = [], False
    for resource, wanted in asked.items():
        limit, has = most.get(resource, "0"), taken.get(resource, "0")
        over = amount(has) + amount(wanted) - amount(limit)
        if over > 0:
            too_much = _plain(over, limit)
            words.append(f"{resource}: {has} of {limit} used, a pod asks for {wanted}, {too_much} too much")
        never = never or amount(wanted) > amount(limit)
    remedy = (
        "ask for less in serving.kubernetes.resources: one pod alone is more than the quota"
        if never
        else "wait until others end, have the quota raised, or ask for less in serving.kubernetes.resources"
    )
    return Trouble(f"the quota {name} is full: {'; '.join(words)}", remedy, never)


def _amounts(text: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in text.split(","))
    return {name: value for name, _, value in pairs}


def _plain(number: Decimal, like: str) -> str:
    """As the quota writes its limit: memory in Mi, what is counted without a unit."""
    return f"{number / 2**20:f}Mi" if re.search(r"[KMGT]i?$", like) else f"{number.normalize():f}"


def _shortened(said: str) -> str:
    """Admission begins with the pod's generated name, which nobody knows."""
    return re.sub(r'^pods "[^"]*" is forbidden: ', "", said)


def failed_start(said: str) -> Trouble:
    """The runtime could not make or start the container."""
    lower = said.lower()
    signs = ("runasnonroot", "run as root", "executable file not found", "no such file", "exec format error")
    is_final = any(sign in lower for sign in signs)
    remedy = (
        "use an image made by deploy/pod.Dockerfile for the nodes' architecture"
        if is_final
        else "make what the sentence names (a Secret, a volume) in the pods' namespace; the node tries again"
    )
    return Trouble(f"the container cannot be made: {said}", remedy, is_final)
