"""What Airflow shows people about a release: the form that starts one, and the page that explains one."""

from __future__ import annotations

from airflow.sdk import Param

from model_store.errors import SlipwayError
from model_store.release_spec import Analysis, InvalidSpec, Margin, ReleaseSpec, Rollout, SliceMargin

VERSION = r"^([0-9]{1,9}|[A-Za-z_][A-Za-z0-9_-]{0,63})$"


def release_params(spec: ReleaseSpec) -> dict[str, Param]:
    """The form of `release_<model>`."""
    return {
        "version": Param(
            spec.source.alias,
            type="string",
            title="Version",
            description="A version number of the registered model, or an alias that points to one.",
            pattern=VERSION,
            examples=[spec.source.alias, "champion", "1"],
        ),
        "reason": Param(
            "",
            type="string",
            title="Why",
            description="For those who read the history of this model later.",
            format="multiline",
            maxLength=500,
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Stop before traffic",
            description="Build, gate and publish the bundle, then end. No pod starts, no request is moved.",
        ),
    }


def rollback_params(models: list[str]) -> dict[str, Param]:
    """The form of `model_rollback`. `models` are suggestions: one whose spec is gone can be rolled back."""
    return {
        "model": Param(type="string", title="Model", minLength=1, maxLength=100, examples=models),
        "version": Param(
            None,
            type=["null", "string"],
            title="To version",
            description="A version number. Left empty: the version that served before the present one.",
            pattern=r"^[0-9]{1,9}$",
        ),
        "reason": Param(
            type="string",
            title="Why",
            description="Lands in the history of the model and on the version that leaves.",
            format="multiline",
            minLength=1,
            maxLength=500,
        ),
        "incident": Param(
            None,
            type=["null", "string"],
            title="Incident",
            description="Its id or address, if there is one.",
            maxLength=200,
        ),
    }


def release_page(spec: ReleaseSpec) -> str:
    """Markdown shown on the DAG's page: what this spec does to a new version, in the order it happens."""
    precisions, targets = ", ".join(spec.precisions), ", ".join(spec.targets)
    lines = [
        f"### {spec.description or spec.model}",
        f"Takes a new version of **{spec.model}** from the registry to its users"
        + (f", for **{spec.owner}**." if spec.owner else "."),
        "",
        f"1. **Intake** — resolves the version (by default the alias `{spec.source.alias}`), waits for its "
        f"turn, {_export(spec)} and checks the data.",
        f"2. **Candidates** — {precisions} for {targets}, each measured against the original: "
        f"{_gates(spec)}.",
        f"3. **Bundle** — the best that passed, preferring {_preference(spec)}, published by its content.",
        f"4. **Rollout** — {_rollout(spec.rollout)}",
        "",
        f"A step passes when {_verdict(spec.rollout.analysis)}. Whatever fails after the deployment gives "
        "all traffic back to the version that served before.",
    ]
    return "\n".join(lines)


def _export(spec: ReleaseSpec) -> str:
    if spec.is_served_as_logged:
        return "packs the model as it was logged with its own locked libraries"
    how = f"from `{spec.source.flavor}`" if spec.source.flavor else "as MLflow says it was logged"
    beside = " and packs it as it was logged, to be compared" if "original" in spec.precisions else ""
    return f"exports it {how} to ONNX{beside}"


_TITLES = {"auc": "AUC"}


def _at_most(margin: Margin | SliceMargin) -> str:
    return f"at most {margin.allowed:.1%} {'lower' if margin.is_drop else 'higher'}"


def _gates(spec: ReleaseSpec) -> str:
    gates = spec.gates
    # Where the spec leaves the task to the model, most are classifiers, and their defaults are shown.
    limits = gates.limits(spec.task or "binary")
    said = [f"{_TITLES.get(name, name)} {_at_most(margin)}" for name, margin in limits.items()]
    if gates.slices:
        named: dict[str, Margin | SliceMargin] = {**gates.slices.by_metric}
        by_metric = named or {"": gates.slices}
        each = ", ".join(f"{name} {_at_most(margin)}".strip() for name, margin in by_metric.items())
        said.append(f"each slice of {', '.join(spec.data.slices)} {each}")
    if gates.latency.max_p99_ms:
        said.append(f"p99 at most {gates.latency.max_p99_ms:g} ms")
    if gates.size:
        said.append(f"at most {gates.size.max_mb:g} MB")
    return ", ".join(said)


def _preference(spec: ReleaseSpec) -> str:
    return {"latency": "the fastest", "size": "the smallest", "order": "the order above"}[spec.prefer]


def _rollout(rollout: Rollout) -> str:
    if rollout.strategy == "blue_green":
        return f"blue-green: a preview for {rollout.preview_seconds:g} s, then one switch."
    steps = " → ".join(f"{step.weight:g} % ({step.hold_seconds:g} s)" for step in rollout.steps)
    return f"canary: {steps}; the previous version stays warm for {rollout.watch_seconds:g} s."


def _verdict(analysis: Analysis) -> str:
    return (
        f"the candidate answered at least {analysis.min_requests} requests, failed no more than "
        f"{analysis.max_error_rate:.1%} of them and no more than stable plus {analysis.error_tolerance:.1%}, "
        f"and was slower than {analysis.latency_objective_ms:g} ms in no more than "
        f"{analysis.max_slow_share:.1%}"
    )


def refused_line(problem: InvalidSpec) -> str:
    """What lists show of the model: the first complaint and what to do, not where these are to be found."""
    first, more = problem.complaints[0], len(problem.complaints) - 1
    others = f" (and {more} more)" if more else ""
    return f"Refused: {problem.path.name}:{first.line}: {first}{others}. Fix it, then: ./slipway validate"


def refused_page(problem: SlipwayError) -> str:
    """Markdown of the DAG that stands where a spec was refused."""
    return f"### This spec is refused\n\n```\n{problem}\n```\n\nOther models are not affected."
