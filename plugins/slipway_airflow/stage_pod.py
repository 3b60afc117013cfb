"""A stage of a build in a pod: Airflow's KubernetesPodOperator makes it, the triggerer waits for it.

What the stage is asked and what it answers lie in the storage (`model_store.stage_exchange`), so the task
passes by the answer alone, whatever became of the pod or of the task meanwhile. A pod that was deleted,
evicted or whose node is lost is a reason to try again; an answer that refuses is the model's.

Not left to the provider is the waiting: its trigger ends a pod for a registry that is busy for a moment
(airflow 61775), takes a pod that was deleted for one that is done (73006), and keeps the whole kubeconfig in
Airflow's database.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_store.errors import Permanent, Retryable, SlipwayError
from slipway_airflow import links, triggers
from slipway_airflow.failures import RetryByKind, translating_failures
from slipway_airflow.step import BY_LABEL, SECONDS, label, working_time

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_store.release_spec.kubernetes import StagePods
    from model_store.stage_exchange import RemoteStage
    from model_store.steps import StepResult
    from serving.control.releases import Release
    from serving.platforms.kubernetes.stage_pods import StageCluster, StageWork

# Between two looks whether a quota has room again.
QUOTA_LOOK_SECONDS = 15.0
# What is lost with a node is lost again now and then.
RETRIES = 8


class StagePod(BaseOperator):
    """Runs a stage of the build in a pod of the cluster, as the spec's `build.kubernetes` says.

    Returns the digest of what it made. A try that finds the pod of an earlier one waits for that.
    """

    template_fields: Sequence[str] = ("release", "exported", "quantized", "compiled", "variant", "target")
    operator_extra_links = links.ALL
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        stage: str,
        release: Any,
        exported: Any = None,
        quantized: Any = None,
        compiled: Any = None,
        variant: Any = None,
        target: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self._pod: dict[str, Any] | None = None
        self.release, self.exported, self.quantized, self.compiled = release, exported, quantized, compiled
        self.variant, self.target = variant, target

    def execute(self, context: Context) -> Any:
        links.forget(self)
        with translating_failures(context), working_time(context):
            return self._begin(context)

    def begin_again(self, context: Context, event: str) -> Any:
        """The cluster had no room for another pod."""
        return self.execute(context)

    def look_again(self, context: Context, event: str, waited_for: dict[str, Any]) -> Any:
        """The trigger saw that the pod is no longer under way."""
        links.forget(self)
        self.log.info("%s", event)
        with translating_failures(context), working_time(context, f"{SECONDS}_resumed"):
            return self._end(context, waited_for)

    def on_kill(self) -> None:
        """Somebody ended the task before it waited; from then on the trigger does this."""
        if self._pod:
            from serving import composition
            from serving.home import Home

            composition.stage_cluster_of(Home.locate()).end(**self._pod)

    def _begin(self, context: Context) -> Any:
        from serving import composition
        from serving.control import build_pods

        services, release = composition.opened(self.release)
        asked = build_pods.asked(services, release, self.stage, self._handed_on())
        if made := asked.made():
            return self._told(context, made)
        cluster = composition.stage_cluster_of(services.home)
        wanted = cluster.wanted(self.stage, release.spec.build.kubernetes)
        work = _work(release, asked, build_pods.public_keys(services))
        until = time.time() + float(wanted.schedule_timeout_seconds or 0)
        if (pod := cluster.running(work, str(wanted.namespace))) is None:
            asked.forget_answer()
            pod = self._made(context, cluster, work, wanted)
        self._pod = {key: pod["metadata"][key] for key in ("namespace", "name", "uid")}
        self.log.info("pod %s in %s", self._pod["name"], self._pod["namespace"])
        return self._wait({**self._pod, "digest": asked.digest, "until": until})

    def _wait(self, waited_for: dict[str, Any]) -> Any:
        pod = {key: waited_for[key] for key in ("namespace", "name", "uid", "until")}
        self.defer(
            trigger=triggers.StageTrigger(**pod),
            method_name="look_again",
            kwargs={"waited_for": waited_for},
        )

    def _end(self, context: Context, waited_for: dict[str, Any]) -> Any:
        from serving import composition
        from serving.control import build_pods

        services, release = composition.opened(self.release)
        cluster = composition.stage_cluster_of(services.home)
        asked = build_pods.known(services, release, self.stage, waited_for["digest"])
        namespace, name, uid = (waited_for[key] for key in ("namespace", "name", "uid"))
        state = cluster.state(namespace, name, uid, waited_for["until"] - time.time())
        if state.is_running:
            return self._wait(waited_for)
        with suppress(SlipwayError):
            self.log.info("its log: %s", asked.keep_log(name, cluster.log(namespace, name)))
        cluster.end(namespace, name, uid)
        if made := asked.made():
            return self._told(context, made)
        if state.phase == "failed":
            raise Permanent(state.words, remedy=state.remedy)
        raise asked.failure() or Retryable(state.words, remedy=state.remedy)

    def _made(
        self, context: Context, cluster: StageCluster, work: StageWork, wanted: StagePods
    ) -> dict[str, Any]:
        # Here and not above: it takes seconds to be imported, and DAG files are read all the time.
        from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

        kubeconfig, cluster_context = cluster.kubeconfig()
        operator = KubernetesPodOperator(
            task_id=self.task_id,
            name=f"slipway-{self.stage}",
            namespace=wanted.namespace,
            pod_template_dict=cluster.pod(work, wanted),
            base_container_name="stage",
            kubernetes_conn_id=None,
            config_file=kubeconfig,
            cluster_context=cluster_context,
        )
        with self._waiting_for_room(context, wanted):
            pod = operator.pod_manager.create_pod(operator.build_pod_request_obj(context))
        found = pod.metadata
        return {"metadata": {"namespace": found.namespace, "name": found.name, "uid": found.uid}}

    @contextmanager
    def _waiting_for_room(self, context: Context, wanted: StagePods) -> Iterator[None]:
        """A full quota empties again; what the cluster does not admit, it never does."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        from serving.platforms.kubernetes.reasons import not_created

        try:
            yield
        except ApiException as error:
            if error.status not in (403, 422):
                raise Retryable(f"the cluster makes no pod now: {error.reason}", remedy="wait") from error
            trouble = not_created(_sentence(error))
            started: Any = context["ti"].start_date
            late = time.time() > started.timestamp() + float(wanted.schedule_timeout_seconds or 0)
            if trouble.is_final or late:
                raise Permanent(trouble.reason, remedy=trouble.remedy) from error
            self.log.warning("%s", trouble.reason)
            until = time.time() + QUOTA_LOOK_SECONDS
            self.defer(trigger=triggers.CooldownTrigger(until), method_name="begin_again")
        except HTTPError as error:
            raise Retryable(
                f"the API server of the cluster does not answer: {error}", remedy="look at the cluster"
            ) from error

    def _handed_on(self) -> dict[str, Any]:
        said = {
            "exported": self.exported,
            "quantized": self.quantized,
            "compiled": self.compiled if self.compiled is None else list(self.compiled),
            "variant": self.variant,
            "target": self.target,
        }
        return {name: value for name, value in said.items() if value is not None}

    def _told(self, context: Context, made: StepResult) -> str:
        self.log.info("%s", made.words)
        label(context, made.words)
        return made.value


class PodStage:
    """A stage in a DAG, called as `@step` tasks are."""

    def __init__(self, stage: str, **kwargs: Any) -> None:
        usual = {
            "task_id": stage,
            "retry_policy": RetryByKind(),
            "retries": RETRIES,
            # Limits are the pod's (`active_deadline_seconds`) and the trigger's (`schedule_timeout_seconds`).
            "execution_timeout": None,
        }
        self._kwargs = {"stage": stage, **usual, **kwargs}

    def __call__(self, release: Any) -> Any:
        return StagePod(release=release, **self._kwargs).output

    def partial(self, **kwargs: Any) -> PodStage:
        return PodStage(**{**self._kwargs, **kwargs})

    def expand(self, **kwargs: Any) -> Any:
        return StagePod.partial(map_index_template=BY_LABEL, **self._kwargs).expand(**kwargs).output


def _work(release: Release, asked: RemoteStage, keys: str) -> StageWork:
    from serving.platforms.kubernetes.stage_pods import StageWork

    return StageWork(
        stage=asked.stage,
        release=release.id,
        model=release.model,
        digest=asked.digest,
        url=asked.storage_url,
        input_url=asked.input_url,
        output_url=asked.output_url,
        keys=keys,
    )


def _sentence(error: Any) -> str:
    import json

    with suppress(ValueError, KeyError, TypeError):
        said: Mapping[str, Any] = json.loads(error.body)
        return str(said["message"])
    return str(error.reason)
