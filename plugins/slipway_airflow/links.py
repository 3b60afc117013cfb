"""Buttons on a task's page that lead to MLflow and Data Docs.

A task says where its links lead by `point(context, name, url)`; Airflow stores them when the task ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk.bases.operatorlink import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

URLS = "link_urls"


@attrs.define()
class _Link(BaseOperatorLink):
    """Leads where the running task pointed it, or nowhere."""

    @property
    def name(self) -> str:
        raise NotImplementedError

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        urls: dict[str, str] = getattr(operator, URLS, {})
        return urls.get(self.name, "")


@attrs.define()
class ModelVersionLink(_Link):
    """The version in MLflow's registry."""

    @property
    def name(self) -> str:
        return "Model version"


@attrs.define()
class EvidenceLink(_Link):
    """The MLflow run that holds what this release measured and decided."""

    @property
    def name(self) -> str:
        return "Evidence"


@attrs.define()
class DataDocsLink(_Link):
    """What Great Expectations checked."""

    @property
    def name(self) -> str:
        return "Data Docs"


ALL: tuple[_Link, ...] = (ModelVersionLink(), EvidenceLink(), DataDocsLink())


def forget(operator: Any) -> None:
    """Let the running task's links lead nowhere yet. Airflow then stores none of them (a request each)."""
    operator.operator_extra_links = ()
    setattr(operator, URLS, {})


def point(context: Context, link: type[_Link], url: str) -> None:
    """Let the running task's `link` lead to `url`."""
    task: Any = context["ti"].task
    getattr(task, URLS)[link().name] = url
    task.operator_extra_links = tuple(one for one in ALL if one.name in getattr(task, URLS))
