"""Buttons on a task's page that lead to the release's page, MLflow and Data Docs.

A task says where its links lead by `point(context, name, url)`; Airflow stores them when the task ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk.bases.operatorlink import BaseOperatorLink

from serving.control.page_url import release_page
from serving.home import Home

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
class ReleaseLink(_Link):
    """The release on the Releases page."""

    @property
    def name(self) -> str:
        return "Release"


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


ALL: tuple[_Link, ...] = (ReleaseLink(), ModelVersionLink(), EvidenceLink(), DataDocsLink())


def forget(operator: Any) -> None:
    """Let the running task's links lead nowhere yet, but to its release if it has one.

    Airflow stores those that lead somewhere (a request each), and no others.
    """
    setattr(operator, URLS, {})
    operator.operator_extra_links = ()
    if release := _release_of(operator):
        _lead(operator, ReleaseLink, release_page(Home.locate(), release))


def point(context: Context, link: type[_Link], url: str) -> None:
    """Let the running task's `link` lead to `url`."""
    _lead(context["ti"].task, link, url)


def _lead(task: Any, link: type[_Link], url: str) -> None:
    getattr(task, URLS)[link().name] = url
    task.operator_extra_links = tuple(one for one in ALL if one.name in getattr(task, URLS))


def _release_of(operator: Any) -> str | None:
    """The id that the task was given; before it is rendered it is no text."""
    release = getattr(operator, "release", None) or getattr(operator, "op_kwargs", {}).get("release")
    return release if isinstance(release, str) else None
