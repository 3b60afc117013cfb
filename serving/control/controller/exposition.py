"""The controller's own metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.control.controller.tick import Controller
from serving.types import Arm


class ControllerCollector(Collector):
    """What the controller knows, at the moment it is asked."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Metric]:
        done = self._controller.done
        yield CounterMetricFamily("slipway_controller_ticks", "Looks at all releases", value=done.ticks)
        yield GaugeMetricFamily(
            "slipway_controller_tick_seconds", "Length of the last look", done.tick_seconds
        )
        yield CounterMetricFamily(
            "slipway_controller_metrics_errors",
            "Looks at which Envoy gave no counters",
            value=done.unreadable,
        )
        yield CounterMetricFamily(
            "slipway_controller_errors", "Failures of the controller itself", value=done.errors
        )
        yield GaugeMetricFamily(
            "slipway_controller_active_releases", "Releases being watched", len(self._controller.active)
        )
        yield self._rollbacks()
        yield from self._arms()
        yield from self._answers()
        yield from self._releases()

    def _rollbacks(self) -> Metric:
        family = CounterMetricFamily(
            "slipway_controller_rollbacks", "Rollbacks by the controller", labels=["service"]
        )
        counted = self._controller.rollbacks
        # Of a counter that begins at 1, Prometheus sees no increase: 0 has to be told before.
        for service in sorted({*self._controller.latest, *counted}):
            family.add_metric([service], counted.get(service, 0))
        return family

    def _arms(self) -> Iterator[Metric]:
        """Of releases under way: attempts per arm, also those that were then repeated on stable."""
        labels = ["service", "release", "arm"]
        families = {
            name: CounterMetricFamily(f"slipway_release_{name}", text, labels=labels)
            for name, text in (
                ("requests", "Attempts completed since the release started"),
                ("errors", "Attempts that failed"),
                ("slow", "Attempts slower than the objective"),
                ("answered", "Attempts answered with 2xx"),
                ("refused", "Well-formed requests that the model refused (4xx)"),
                ("malformed", "Attempts answered with any other 4xx"),
            )
        }
        for state, _ in list(self._controller.active):
            if not (watch := self._controller.watches.get(state.release_id)):
                continue
            for arm, counts in ((Arm.STABLE, watch.tally.stable), (Arm.CANDIDATE, watch.tally.candidate)):
                for name, family in families.items():
                    family.add_metric([state.service, state.release_id, arm], getattr(counts, name))
        yield from families.values()

    def _answers(self) -> Iterator[Metric]:
        """Of releases under way whose spec compares answers: recorded requests that both arms answered."""
        labels = ["service", "release"]
        compared = CounterMetricFamily("slipway_release_answers_compared", "Answers compared", labels=labels)
        differed = CounterMetricFamily("slipway_release_answers_disagreed", "That differed", labels=labels)
        for state, _ in list(self._controller.active):
            watch = self._controller.watches.get(state.release_id)
            if watch and state.plan.policy.max_disagreement is not None:
                for family, count in zip((compared, differed), watch.tally.answers, strict=True):
                    family.add_metric([state.service, state.release_id], count)
        yield from (compared, differed)

    def _releases(self) -> Iterator[Metric]:
        labels = ["service", "release", "phase"]
        weight = GaugeMetricFamily("slipway_release_weight", "Percent of traffic", labels=labels)
        step = GaugeMetricFamily("slipway_release_step", "Step under way, from 0", labels=labels)
        begun = GaugeMetricFamily(
            "slipway_release_step_started_seconds", "When the step began, seconds since 1970", labels=labels
        )
        outcome = GaugeMetricFamily(
            "slipway_release_outcome", "Verdict: 0 pass, 1 inconclusive, 2 error, 3 fail", labels=labels
        )
        for state, route in list(self._controller.active):
            values = [state.service, state.release_id, state.phase]
            watch = self._controller.watches.get(state.release_id)
            weight.add_metric(values, route.split.candidate)
            step.add_metric(values, state.step)
            begun.add_metric(values, state.step_started_at.timestamp())
            if watch and watch.verdict:
                outcome.add_metric(values, watch.verdict.outcome)
        yield from (weight, step, begun, outcome)
