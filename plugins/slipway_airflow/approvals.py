"""People who let a bundle onto traffic: named in the spec, each once, and never the version's author.

An approval is for the bundle that was shown: its id is part of the form, comes back with the answer, and is
in the audit trail. A run that is cleared asks only what was not answered yet for the bundle it built.

Imported only by DAGs whose spec asks for approval.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException

from model_store.errors import Permanent
from model_store.release_spec import Approval
from serving.control import reasons
from serving.control.page_url import release_page
from slipway_airflow import links
from slipway_airflow.failures import RetryByKind, translating_failures

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_store.stages.base import Gated
    from serving.control.bundle_comparison import BundleComparison
    from serving.control.releases import Release
    from serving.control.wiring import Services


def _reason_field() -> Param:
    """The form's field for the reason, empty. A new one each time: a parameter keeps what is put into it."""
    return Param(
        "",
        type="string",
        title="Why",
        description="For those who read the history of this release later.",
        format="multiline",
        maxLength=reasons.LONGEST,
        source="task",
    )


_NAME_PEOPLE = "name approvers as they log in, not by id: then only those who may approve are asked"


def _bundle_field(bundle: str) -> Param:
    """The form's field that names what is approved: there is nothing else to choose."""
    return Param(
        bundle,
        type="string",
        title="Bundle",
        description="What is approved: these bytes and no others.",
        source="task",
        **({"enum": [bundle]} if bundle else {}),
    )


def _readable(given: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the trail keeps it: Airflow's REST API takes any, and its page an empty one."""
    why = reasons.cleaned(given.get("reason")) or "no reason given in Airflow"
    return {"bundle": "", **given, "reason": why}


class NotApproved(Permanent):
    """Somebody said no, or nobody said anything in time."""


class AskApproval(ApprovalOperator):
    """Shows what was measured and waits for one of the approvers. Returns who approved.

    No worker slot is held while it waits. Silence is a no. Who approved this very bundle in an earlier run of
    the release is not asked again.
    """

    template_fields: Sequence[str] = ("subject", "body", "release", "bundle", "gated", "earlier")
    operator_extra_links = links.ALL
    ui_color = "#fdf3d8"

    def __init__(
        self, *, approval: Approval, release: Any, bundle: Any, gated: Any, earlier: Any, **kwargs: Any
    ) -> None:
        kwargs.setdefault("retry_policy", RetryByKind())
        kwargs.setdefault("doc_md", inspect.cleandoc(type(self).__doc__ or ""))
        # In place of the DAG's own, which are about the release: this is the form of the answer.
        kwargs["params"] = {"reason": _reason_field(), "bundle": _bundle_field("")}
        super().__init__(
            subject="May this version get traffic?",
            defaults=self.REJECT,
            response_timeout=timedelta(seconds=approval.timeout_seconds),
            # How long people may take is `response_timeout`.
            execution_timeout=None,
            **kwargs,
        )
        self.approval = approval
        self.release = release
        self.bundle = bundle
        self.gated = gated
        self.earlier = earlier

    def execute(self, context: Context) -> Any:
        from serving.composition import opened

        links.forget(self)
        with translating_failures(context):
            services, release = opened(self.release)
            if release.request.dry_run:
                raise AirflowSkipException("dry run: there is nothing to approve")
            if who := self._approved_before(services, release):
                self.log.info("%s approved bundle %s before", who, self.bundle)
                return who
            self._prepare(services, release)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        links.forget(self)
        with translating_failures(context):
            # Here the form has what was answered, which may be about another bundle than this run's.
            self.params["bundle"] = _bundle_field("")
            self.params["reason"] = _reason_field()
            given = event["params_input"] or {}
            said = _readable(given) if event["responded_by_user"] else given
            answer = super(ApprovalOperator, self).execute_complete(
                context=context, event={**event, "params_input": said}
            )
            if answer["responded_by_user"] and said["bundle"] != self.bundle:
                self._note(context, answer)
                self.log.warning(
                    "the answer is about %s, and this run built bundle %s: people are asked again",
                    f"bundle {said['bundle']}" if said["bundle"] else "no bundle that it names",
                    self.bundle,
                )
            else:
                # Before it is written down: what does not count must not be found as an approval later.
                self._refuse_self_and_twice(context, answer)
                self._note(context, answer)
                return self._approver(answer["chosen_options"], answer["responded_by_user"])
        return self.execute(context)

    def _refuse_self_and_twice(self, context: Context, answer: Any) -> None:
        from serving.composition import opened
        from serving.control import audit_entries

        by = answer["responded_by_user"] or {}
        if list(answer["chosen_options"]) != [self.APPROVE] or not by:
            return
        services, release = opened(self.release)
        why = audit_entries.refusal_to_approve(
            services,
            release,
            who=str(by.get("name") or by.get("id")),
            account=str(by.get("id") or by.get("name")),
            bundle=self.bundle,
            task=context["ti"].task_id,
        )
        if why:
            raise NotApproved(f"not released: {why}", remedy=_NAME_PEOPLE)

    def _approved_before(self, services: Services, release: Release) -> str | None:
        """Who approved this very bundle and is not counted yet."""
        from serving.control import audit_entries

        given = audit_entries.approvers_of(services, release, self.bundle)
        return next((who for who in given if who not in self.earlier), None)

    def _prepare(self, services: Services, release: Release) -> None:
        """The form, who may fill it in, and a message to those who want to be told."""
        from model_store.steps import load_result
        from serving.control import notifications, wiring
        from serving.control.releases import words_for_another

        authors = services.registry.authors(release.ref)
        allowed = who_may(self.approval.approvers, [*self.earlier, *authors])
        self.assigned_users = [{"id": user, "name": user} for user in allowed]
        self.subject = f"May {release.ref} get traffic, as bundle {self.bundle}?"
        self.params["bundle"] = _bundle_field(self.bundle)
        # Airflow filled it with the run's own, the words of who asked for the release.
        self.params["reason"] = _reason_field()
        variants = [load_result(services.store, digest) for digest in self.gated]
        again = words_for_another(self.bundle, [one.bundle_id for one in release.bundles])
        compared = next((one.compared for one in release.bundles if one.bundle_id == self.bundle), None)
        where = {
            "This release": release_page(services.home, release.id),
            "The version in MLflow": services.registry.version_url(release.ref),
        }
        self.body = evidence_page(variants, self.bundle, again=again, compared=compared, links=where)
        notifications.notify_of_approval(
            services,
            release,
            bundle=self.bundle,
            number=len(self.earlier) + 1,
            allowed=allowed,
            text=self.body,
            at=wiring.now(),
        )

    def _note(self, context: Context, answer: Any) -> None:
        """Into the audit trail, if a person answered (and Slipway's own page or API did not write it)."""
        from serving.composition import opened
        from serving.control import audit_entries

        by = answer["responded_by_user"] or {}
        if not (who := by.get("name") or by.get("id")):
            return
        services, release = opened(self.release)
        audit_entries.note_answer(
            services,
            release,
            who=str(who),
            account=str(by.get("id") or who),
            approved=list(answer["chosen_options"]) == [self.APPROVE],
            reason=str((answer["params_input"] or {}).get("reason") or ""),
            task=context["ti"].task_id,
            bundle=str(answer["params_input"]["bundle"]),
            at=answer["responded_at"],
        )

    def _approver(self, chosen: Sequence[str], by: Any) -> str:
        name, account = (by or {}).get("name"), (by or {}).get("id")
        if list(chosen) != [self.APPROVE]:
            who = name or account
            said = f"{who} rejected it" if who else "nobody approved it in time"
            raise NotApproved(f"not released: {said}", remedy="ask them, then release the version again")
        from serving.control.audit_entries import name_in_spec

        # Who approved must not be asked again: the spec may call them by name or by their account's id.
        return name_in_spec(self.approval, str(name or ""), str(account or "")) or str(account or name or "")


def who_may(approvers: Iterable[str], not_these: Iterable[str]) -> list[str]:
    """Those who may still approve. Raises `Permanent` when nobody is left: Airflow would ask everybody."""
    excluded = set(not_these)
    allowed = [user for user in approvers if user not in excluded]
    if not allowed:
        raise Permanent(
            f"nobody is left who may approve: {', '.join(sorted(filter(None, excluded)))} may not (again)",
            remedy="name more people in approval.approvers; a version's author is never one of them",
        )
    return allowed


def evidence_page(
    variants: Sequence[Gated],
    bundle: str,
    *,
    again: str = "",
    compared: BundleComparison | None = None,
    links: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Markdown: what changes for users, and every check of every variant beside its limit.

    `again`: why people are asked although they were asked before; `links`: addresses by what is there.
    """
    from model_store.steps import name_of
    from serving.control.bundle_comparison import in_markdown

    rows = [
        f"| {name_of(gated['variant'])} | {check['name']} | {check['observed']:.4g} | {check['limit']:.4g} "
        f"| {'passed' if check['passed'] else '**missed**'} |"
        for gated in variants
        for check in gated["report"]["checks"]
    ]
    why = ["", f"**Asked again**: {again}."] if again else []
    head = [
        " · ".join([f"Bundle `{bundle}`", *(f"[{name}]({url})" for name, url in links.items())]),
        *why,
        "",
        *(in_markdown(compared) if compared else []),
        "### Checks",
        "",
        "| candidate | check | observed | limit | |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])
