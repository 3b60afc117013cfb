"""What every `MetricsSource` does. Subclass `MetricsContract` and give it a `world` fixture."""

from __future__ import annotations

from typing import Protocol

import pytest

from model_store.errors import Retryable
from serving.metrics.base import EndpointCounters, MetricsSource


class Scene(Protocol):
    """A service with a stable and a candidate endpoint, half the traffic each."""

    source: MetricsSource

    def candidate_fault(self, fault: str) -> None: ...

    def serve(self, requests: int, status: int | None = 200) -> None:
        """Each is answered with `status` (None: with any)."""
        ...

    def stop_proxy(self) -> None: ...

    def read(self) -> tuple[EndpointCounters, EndpointCounters]:
        """Of stable and of the candidate, since the scene began."""
        ...


class MetricsContract:
    def test_healthy_attempts_are_counted_where_they_went(self, scene: Scene) -> None:
        scene.serve(40)
        stable, candidate = scene.read()
        assert stable.requests + candidate.requests == 40
        assert (stable.errors, candidate.errors, stable.slow, candidate.slow) == (0, 0, 0, 0)
        assert stable.healthy
        assert candidate.healthy

    @pytest.mark.parametrize("fault", ["error", "reset", "hang", "dead"])
    def test_failures_that_were_repeated_elsewhere_are_the_candidates(self, scene: Scene, fault: str) -> None:
        scene.candidate_fault(fault)
        scene.serve(12)
        stable, candidate = scene.read()
        assert candidate.errors == candidate.requests > 0
        assert (stable.requests, stable.errors) == (12, 0)

    def test_slow_answers_are_counted_per_endpoint(self, scene: Scene) -> None:
        scene.candidate_fault("slow")
        scene.serve(10)
        stable, candidate = scene.read()
        assert (stable.slow, candidate.slow) == (0, candidate.requests)
        assert candidate.slow > 0

    def test_what_a_model_refuses_and_what_is_malformed_are_counted_apart(self, scene: Scene) -> None:
        scene.candidate_fault("refused")
        scene.serve(10, status=None)
        scene.candidate_fault("malformed")
        scene.serve(20, status=None)
        stable, candidate = scene.read()
        assert (stable.refused, stable.malformed) == (0, 0)
        assert candidate.refused > 0 < candidate.malformed
        assert candidate.refused + candidate.malformed == candidate.requests
        # Stable was asked what the model refused, and proxies call an error what they repeat.
        assert candidate.errors == candidate.repeated == candidate.refused

    def test_what_there_is_no_room_for_is_told_from_what_is_malformed(self, scene: Scene) -> None:
        scene.candidate_fault("oversized")
        scene.serve(12, status=None)
        _, candidate = scene.read()
        assert candidate.uninformative == candidate.malformed == candidate.requests > 0
        assert candidate.errors == 0

    def test_counters_never_shrink(self, scene: Scene) -> None:
        scene.serve(5)
        before = scene.read()[0].requests
        scene.serve(5)
        assert scene.read()[0].requests >= before

    def test_a_proxy_that_is_gone_is_a_retryable_error(self, scene: Scene) -> None:
        scene.stop_proxy()
        with pytest.raises(Retryable):
            scene.source.counters()
