"""Releases of real pods behind a real Envoy, judged by the controller, with traffic that some refuse."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.control.controller.tick import Controller
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.ledger.memory import MemoryLedger
from serving.metrics.envoy import EnvoyAdmin
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import make_bundle
from tests.pods import running_pod
from tests.unit.serving.gateway.test_refusals_through_envoy import table
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.world import POLICY

PLAN = RolloutPlan(
    "canary",
    (RolloutStep(TrafficSplit(50, 50), 1), RolloutStep(TrafficSplit(0, 100), 0)),
    max_step_seconds=600,
    watch_seconds=600,
    policy=POLICY,
)
SETTINGS = RouteSettings(timeout_ms=5000)


class Release:
    """`name` in versions 1 and 2, each an embedding table, and the release of the second."""

    def __init__(
        self, gateway: Gateway, root: Path, name: str, tables: tuple[int, int], stack: ExitStack
    ) -> None:
        self.gateway, self.name, self.id = gateway, name, f"{name}-v2-20261121T120000Z"
        self.journal, self.statuses = KeptJournal(MemoryLedger()), Counter[int]()
        arms = []
        for version, (rows, slot) in enumerate(zip(tables, Slot, strict=True), 1):
            bundle = make_bundle(
                root,
                table(rows, version),
                name=name,
                version=version,
                warmup={"item": np.array([1])},
                serving={"stochastic": True},
            )
            endpoint = Endpoint("127.0.0.1", stack.enter_context(running_pod(bundle)).port)
            arms.append(Deployment(DeploymentRef(name, slot, f"b{version}", version), (endpoint,)))
        self.client = stack.enter_context(httpx.Client(base_url=gateway.home.gateway_url, timeout=10))
        router = gateway.router
        router.write(name, ALL_STABLE, stable=arms[0], candidate=None, at=0, settings=SETTINGS)
        gateway.wait(lambda: self.ask(1) == 200)
        admin = stack.enter_context(closing(EnvoyAdmin(gateway.home.envoy_stats_url, timeout_seconds=10)))
        clocks = {"now": lambda: datetime.now(UTC), "monotonic": time.monotonic}
        self.controller = Controller(self.journal, router, admin, **clocks)
        self.rollouts = self.controller.rollouts
        self.rollouts.start(self.id, PLAN, arms[1], SETTINGS)

    def ask(self, item: object) -> int:
        tensor = {"name": "item", "shape": [1], "datatype": "INT64", "data": [item]}
        path = f"/v2/models/{self.name}/infer"
        return self.client.post(path, json={"inputs": [tensor]}).status_code

    def under(self, items: Callable[[int], object], until: Callable[[RolloutState], bool]) -> RolloutState:
        """One request after another, while the controller looks, until that is so or a minute passes."""
        over = threading.Event()

        def send() -> None:
            number = 0
            while not over.is_set():
                self.statuses[self.ask(items(number))] += 1
                number += 1

        sender = threading.Thread(target=send)
        sender.start()
        end = time.monotonic() + 60
        try:
            while not until(state := self.journal.load(self.id)) and time.monotonic() < end:
                self.controller.tick()
                time.sleep(0.1)
        finally:
            over.set()
            sender.join()
        return state


@pytest.fixture
def release(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[[str, tuple[int, int]], Release]]:
    with ExitStack() as stack:
        yield lambda name, tables: Release(gateway, tmp_path, name, tables, stack)


def is_final(state: RolloutState) -> bool:
    return state.phase in (Phase.ROLLED_BACK, Phase.DONE)


def test_a_smaller_table_is_rolled_back_and_no_caller_sees_a_refusal(
    release: Callable[[str, tuple[int, int]], Release],
) -> None:
    smaller = release("smaller", (100, 60))
    state = smaller.under(lambda number: 37 * number % 100, is_final)
    assert state.phase is Phase.ROLLED_BACK
    assert "candidate refused" in state.reason
    assert set(smaller.statuses) == {200}
    record = smaller.journal.latest_record(smaller.id)
    assert record
    assert record.candidate.refused > 0 == record.candidate.errors


def test_a_larger_table_goes_on_though_clients_send_garbage_and_unknown_items(
    release: Callable[[str, tuple[int, int]], Release],
) -> None:
    larger = release("larger", (60, 100))
    state = larger.under(
        lambda number: "garbage" if number % 4 == 0 else 37 * number % 120,
        lambda state: state.phase is Phase.WATCHING,
    )
    assert state.phase is Phase.WATCHING


def test_clients_that_name_stables_version_in_the_message_alone_take_nothing_back(
    gateway: Gateway, release: Callable[[str, tuple[int, int]], Release]
) -> None:
    equal = release("equal", (60, 60))
    asked = service_pb2.ModelInferRequest(model_name=equal.name, model_version="1")
    asked.inputs.add(name="item", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    codes = Counter[str]()
    with grpc.insecure_channel(f"127.0.0.1:{gateway.home.ports.gateway}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def item(number: int) -> int:
            try:
                stub.ModelInfer(asked, metadata=(("x-slipway-model", equal.name),))
            except grpc.RpcError as error:
                codes[error.code().name] += 1
            return number % 60

        state = equal.under(item, lambda state: is_final(state) or state.phase is Phase.WATCHING)
    assert state.phase is Phase.WATCHING, state.reason
    assert set(codes) == {"NOT_FOUND"}


def test_nothing_is_promoted_on_nothing_but_refusals(
    release: Callable[[str, tuple[int, int]], Release],
) -> None:
    same = release("same", (60, 60))
    end = time.monotonic() + 15
    state = same.under(lambda number: "garbage" if number % 2 else 99, lambda state: time.monotonic() > end)
    assert set(same.statuses) == {400}
    assert same.statuses[400] > 2 * POLICY.min_requests
    assert (state.phase, state.step) == (Phase.PROGRESSING, 0)
    record = same.journal.latest_record(same.id)
    assert record
    assert (record.candidate.answered, record.candidate.errors) == (0, 0)
