"""One DAG per release spec: a version in the registry becomes what users reach.

Read `release_dag` from top to bottom: it is the story. What the tasks do is in `plugins/slipway_airflow`.
Only what parsing needs is imported here, everything heavy waits inside the tasks: 300 specs parse in seconds.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    TaskGroup,
    get_current_context,
    get_parsing_context,
)
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from slipway_airflow import assets, forms, pools
from slipway_airflow.notifications import DeliverNotifications, Late
from slipway_airflow.operators import AcquireReleaseLock, RollOut
from slipway_airflow.step import BY_LABEL, DecoratedStep, step

from model_store.build import variants
from model_store.release_spec import InvalidSpec, ReleaseSpec
from model_store.stages.base import Variant
from model_store.types import TargetName
from serving.control import specs

if TYPE_CHECKING:
    from model_store.steps import StepResult

RELEASES = Path(__file__).parent / "releases"

# A short absence of MLflow or a pod is waited out (5 + 10 + 20 s); then the release fails and is settled.
DEFAULTS: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=5),
    "execution_timeout": timedelta(minutes=30),
    # Of many releases, those that are nearly done come first: else all would be built before one serves.
    "weight_rule": "upstream",
}


def release_dag(spec: ReleaseSpec) -> DAG:
    """The steps of a release until it is promoted, in four groups, and a settlement that always runs.

    The watch that follows is the controller's: a way back within it is a run of `model_rollback` of its own.
    """
    news, serving = assets.registry_asset(spec.model, spec.source.alias), assets.serving_asset(spec.model)
    with DAG(
        dag_id=specs.dag_id_of(spec.model),
        dag_display_name=f"Release {spec.model}",
        description=spec.description or f"Releases {spec.model}",
        doc_md=forms.release_page(spec),
        schedule=when(spec, news),
        deadline=deadline(spec),
        catchup=False,
        # Requests wait for the release lock inside their runs, where a newer one can supersede them.
        max_active_runs=16,
        default_args={**DEFAULTS, "owner": spec.owner or "slipway"},
        tags=["slipway", "release", spec.model],
    ) as dag:
        with TaskGroup("intake", tooltip="Which version, whose turn, is it what it says"):
            turn = AcquireReleaseLock(task_id="take_turn", spec=spec, inlets=[news]).as_setup()  # type: ignore[no-untyped-call]
            release = turn.output
            exported = placed(spec, "export", export)(release)
            checked = check_data(release, exported)

        with TaskGroup("candidates", tooltip="Every precision, for every target, against the limits"):
            quantized = (
                placed(spec, "quantize", quantize)
                .partial(release=release, exported=exported)
                .expand(variant=variants(spec))
            )
            compiled = (
                placed(spec, "compile", compile)
                .partial(release=release)
                .expand(quantized=quantized, target=list(spec.targets))
            )
            gated = (
                placed(spec, "gate", gate)
                .partial(release=release, exported=exported, compiled=compiled)
                .expand(quantized=quantized)
            )
            checked >> gated

        with TaskGroup("bundle", tooltip="The best that passed, by its content"):
            chosen = choose(release, gated)
            published = publish(release, exported, gated, chosen)

        approved = ask_people(spec, release, published, gated)

        with TaskGroup("rollout", tooltip="Step by step, and back at the first doubt"):
            pool = pools.rollouts(spec.serving.target)
            roll_out = RollOut(task_id="roll_out", release=release, bundle=published, pool=pool)
            approved >> roll_out
            promoted = promote.override(outlets=[serving])(release, published, gated)
            roll_out >> promoted

        promoted >> settle(release, published, gated).as_teardown(setups=turn)
    # Not earlier: every task would get a copy, to be parsed and kept in the database with the DAG.
    dag.params.update(forms.release_params(spec))
    return dag


def placed(spec: ReleaseSpec, name: str, stage: DecoratedStep) -> Any:
    """The stage of a build where the spec has it run: here, or in a pod of its own."""
    if spec.build.place == "local":
        return stage
    from slipway_airflow.stage_pod import PodStage

    return PodStage(name, pool=pools.BUILDS)


def when(spec: ReleaseSpec, news: Asset) -> Any:
    """Whenever the registry has news of the model; by the clock, too, if the spec has a schedule."""
    if spec.schedule is None:
        return [news]
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(spec.schedule, timezone="UTC"), assets=[news])


def deadline(spec: ReleaseSpec) -> DeadlineAlert | None:
    """Tells people of a release that takes longer than the spec says. It stops nothing."""
    if spec.deadline_seconds is None:
        return None
    seconds = spec.deadline_seconds
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=seconds),
        callback=AsyncCallback(Late, kwargs={"model": spec.model, "seconds": seconds}),
    )


def ask_people(spec: ReleaseSpec, release: Any, bundle: Any, gated: Any) -> list[Any]:
    """A task for each approval the spec requires, one after the other; none if it requires none."""
    if spec.approval is None:
        return []
    from slipway_airflow.approvals import AskApproval

    asked: list[Any] = []
    with TaskGroup("approval", tooltip="People the spec names, each once, never the version's author"):
        for number in range(1, spec.approval.required + 1):
            asked.append(
                AskApproval(
                    task_id=f"approve_{number}",
                    approval=spec.approval,
                    release=release,
                    bundle=bundle,
                    gated=gated,
                    earlier=[earlier.output for earlier in asked],
                )
            )
    return asked


@step(pool=pools.BUILDS)
def export(release: str) -> StepResult:
    """Turns the registered version into one ONNX file that agrees with the original.

    ONNX is taken as it is. scikit-learn is converted in a child process, and only if the spec trusts it.
    """
    from serving import composition
    from serving.control import build_stages

    return build_stages.export(*composition.opened(release))


@step
def check_data(release: str, exported: str) -> StepResult:
    """Checks evaluation and calibration rows with Great Expectations; none may be in both."""
    from serving import composition
    from serving.control import build_stages

    return build_stages.check_data(*composition.opened(release), exported)


@step(map_index_template=BY_LABEL, pool=pools.BUILDS)
def quantize(release: str, exported: str, variant: Variant) -> StepResult:
    """Makes the model smaller: fp16, int8 for onnxruntime, int8 in the layout TensorRT parses."""
    from serving import composition
    from serving.control import build_stages

    return build_stages.quantize(*composition.opened(release), exported, variant)


@step(map_index_template=BY_LABEL, pool=pools.BUILDS)
def compile(release: str, quantized: str, target: TargetName) -> StepResult:
    """Builds a candidate for a target ahead of time. What a target does not take is a reason, no failure."""
    from serving import composition
    from serving.control import build_stages

    return build_stages.compile(*composition.opened(release), quantized, target)


@step(map_index_template=BY_LABEL, pool=pools.BUILDS)
def gate(release: str, exported: str, quantized: str, compiled: list[str]) -> StepResult:
    """Measures accuracy, latency and size of a candidate against the spec's limits."""
    from serving import composition
    from serving.control import build_stages

    return build_stages.gate(*composition.opened(release), exported, quantized, compiled)


@step
def choose(release: str, gated: list[str]) -> StepResult:
    """Takes the best candidate that passed. None passed: the release ends here and says which limits."""
    from serving import composition
    from serving.control import build_stages

    return build_stages.choose(*composition.opened(release), gated)


@step
def publish(release: str, exported: str, gated: list[str], chosen: str) -> StepResult:
    """Lays the bundle out as a Triton model repository. The same content is the same bundle."""
    from serving import composition
    from serving.control import build_stages

    return build_stages.publish(*composition.opened(release), exported, gated, chosen)


@step(on_success_callback=DeliverNotifications())
def promote(release: str, bundle: str, gated: list[str]) -> StepResult:
    """Records the evidence, moves the alias `champion`, and lets the next release begin."""
    from slipway_airflow import final_steps

    return final_steps.promote(get_current_context(), release, bundle, gated)


@step(on_success_callback=DeliverNotifications(), on_failure_callback=DeliverNotifications())
def settle(release: str, bundle: str | None, gated: list[str]) -> StepResult:
    """Always runs. After a failure: all traffic to stable, the candidate ended, the version tagged why."""
    from slipway_airflow import final_steps

    return final_steps.finalize(get_current_context(), release, bundle, gated)


def refused_dag(dag_id: str, problem: InvalidSpec) -> DAG:
    """Stands where a spec was refused: says what is wrong, and fails whoever asks for a release.

    Airflow knows import errors only of whole files, and this file's would hide every other model's DAG.
    """
    with DAG(
        dag_id=dag_id,
        dag_display_name=f"⚠ {problem.path.name} is refused",
        description=forms.refused_line(problem),
        doc_md=forms.refused_page(problem),
        schedule=None,
        tags=["slipway", "spec refused"],
    ) as dag:

        @step(doc_md=forms.refused_page(problem))
        def read_spec() -> None:
            raise problem

        read_spec()
    return dag


# Airflow finds DAGs among this module's names.
asked_for = specs.wanted(RELEASES, get_parsing_context().dag_id)
for spec in asked_for.specs:
    globals()[specs.dag_id_of(spec.model)] = release_dag(spec)
for problem in asked_for.problems:
    dag_id = specs.dag_id_of_problem(problem, asked_for.specs)
    globals()[dag_id] = refused_dag(dag_id, problem)
