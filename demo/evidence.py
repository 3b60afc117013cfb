"""Reads what a release left behind in MLflow (tags, runs, artifacts), in Slipway, Airflow and the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from demo.clients import Json, Platform, Registry
from demo.facts import Exposure, Happening, Measured, Release, Rollback, Variant
from demo.perform import Played
from demo.traffic_log import TrafficLog
from demo.view import name_of
from model_store.errors import Permanent


def read_releases(
    platform: Platform, registry: Registry, model: str, played: Sequence[Played], log: TrafficLog
) -> list[Release]:
    """One `Release` for each act. Raises `Permanent` naming the evidence that is missing."""
    return [_release(platform, registry, model, one, log) for one in played]


def _release(platform: Platform, registry: Registry, model: str, played: Played, log: TrafficLog) -> Release:
    version = played.act.version
    tags = registry.tags(model, version)
    release_id, ending = _tag(tags, "slipway.release"), _tag(tags, "slipway.status")
    evidence = _tag(tags, "slipway.evidence").rstrip("/").rpartition("/")[2]
    happenings = happenings_of(registry.artifact(evidence, "timeline.json") or ())
    # Nothing at all of a release that was blocked before traffic.
    looks = registry.artifact(evidence, "verdicts.jsonl") or ()
    accuracy = registry.metric(registry.run_of(model, version), "accuracy")
    if accuracy is None:
        raise Permanent(
            f"the run that trained v{version} has no metric 'accuracy'", remedy="see the run in MLflow"
        )
    return Release(
        version=version,
        story=played.act.story,
        asked_by=played.asked_by,
        release_id=release_id,
        ending=ending,
        reason=tags.get("slipway.reason", ""),
        seconds=played.seconds,
        trained_accuracy=accuracy,
        variants=tuple(map(_variant, registry.artifact(evidence, "gates.json") or ())),
        chosen=_chosen(platform.release(release_id)),
        bundle=tags.get("slipway.bundle"),
        step_seconds=step_seconds(platform.tasks(played.run)),
        happenings=happenings,
        exposure=_exposure(looks[-1]) if looks else None,
        rollback=rollback_of(happenings, looks, log, version) if ending == "rolled_back" else None,
    )


def _tag(tags: dict[str, str], key: str) -> str:
    if key not in tags:
        raise Permanent(
            f"the version has no tag {key!r}", remedy="see the release's task `settle` in Airflow"
        )
    return tags[key]


def _chosen(release: Json) -> str | None:
    tried = release["candidates"]
    return next((str(one["precision"]) for one in tried if one["status"] == "chosen"), None)


def _variant(gated: Json) -> Variant:
    profile = gated["profile"] or {}
    return Variant(
        precision=gated["variant"]["precision"],
        layout=gated["variant"]["layout"],
        checks=tuple(map(_measured, gated["report"]["checks"])),
        before_ms=profile.get("baseline_p50_ms"),
        after_ms=profile.get("p50_ms"),
        ratio=profile.get("latency_ratio"),
        interval=tuple(profile["latency_interval"]) if profile else None,
    )


def _measured(check: Json) -> Measured:
    fields = ("name", "observed", "limit", "passed", "detail", "reference", "value")
    return Measured(*(check.get(field) for field in fields))  # type: ignore[arg-type]  # as JSON has them


def happenings_of(timeline: Sequence[Json]) -> tuple[Happening, ...]:
    """What `timeline.json` tells of a rollout, in order."""
    return tuple(Happening(_at(event), event["kind"], event["detail"]) for event in timeline)


def _exposure(look: Json) -> Exposure:
    """Of one line of `verdicts.jsonl`: its counts begin with requests and those that failed."""
    requests, errors, *_ = look["candidate"]
    return Exposure(requests, errors)


def rollback_of(
    happenings: Sequence[Happening], looks: Sequence[Json], log: TrafficLog, version: int
) -> Rollback:
    """The times of a rollback, from what the controller wrote down and from what clients saw.

    `looks`: the lines of `verdicts.jsonl`, whose counts are since the release began.
    """
    clean = [look for look in looks if _exposure(look).errors == 0]
    has_failed = len(clean) < len(looks)
    return Rollback(
        first_error_after=_at(clean[-1]).timestamp() if clean and has_failed else None,
        weight_zero_at=next(h.at.timestamp() for h in happenings if h.kind == "rolled back"),
        last_answer_at=max((entry.answered_at for entry in log.answered_by(version)), default=None),
    )


def _at(told: Json) -> datetime:
    return datetime.fromisoformat(told["at"])


def step_seconds(tasks: Sequence[Json]) -> dict[str, float]:
    """Task name (without its group) -> seconds from its first instance's start to its last one's end.

    Tasks that never ran are left out; Airflow dates them too, with no time between start and end.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for task in tasks:
        if task["state"] in ("success", "failed") and task["start_date"] and task["end_date"]:
            span = (_seconds(task["start_date"]), _seconds(task["end_date"]))
            spans.setdefault(name_of(task), []).append(span)
    return {
        name: max(end for _, end in found) - min(start for start, _ in found) for name, found in spans.items()
    }


def _seconds(text: Any) -> float:
    return datetime.fromisoformat(text).timestamp()
