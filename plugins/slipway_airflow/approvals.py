"""People who let a release onto traffic: named in the spec, each once, and never the version's author.

Imported only by DAGs whose spec asks for approval.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException

from model_store.errors import Permanent
from model_store.spec import Approval
from slipway_airflow import links
from slipway_airflow.failures import RetryByKind, explained

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_store.build import Gated


_REASON = Param(
    "",
    type="string",
    title="Why",
    description="For those who read the history of this release later.",
    format="multiline",
    maxLength=500,
    source="task",
)


_NAME_PEOPLE = "name approvers as they log in, not by id: then only those who may approve are asked"


class NotApproved(Permanent):
    """Somebody said no, or nobody said anything in time."""


class AskApproval(ApprovalOperator):
    """Shows what was measured and waits for one of the approvers. Returns who approved.

    No worker slot is held while it waits. Silence is a no.
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
        kwargs["params"] = {"reason": _REASON}
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
        from slipway_airflow import notifications, wiring
        from slipway_airflow.building import opened, recall

        links.forget(self)
        with explained(context):
            services, release = opened(self.release)
            if release.request.dry_run:
                raise AirflowSkipException("dry run: there is nothing to approve")
            author = services.registry.author(release.ref)
            allowed = who_may(self.approval.approvers, [*self.earlier, author])
            self.assigned_users = [{"id": user, "name": user} for user in allowed]
            self.subject = f"May {release.ref} get traffic?"
            self.body = evidence_page([recall(services.store, digest) for digest in self.gated], self.bundle)
            notifications.tell_of_approval(
                services,
                release,
                number=len(self.earlier) + 1,
                allowed=allowed,
                text=self.body,
                at=wiring.now(),
            )
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        links.forget(self)
        with explained(context):
            answer = super(ApprovalOperator, self).execute_complete(context=context, event=event)
            self._note(context, answer)
            who = self._approver(answer["chosen_options"], answer["responded_by_user"])
            self._refuse_self_and_twice(who, answer["responded_by_user"])
            return who

    def _refuse_self_and_twice(self, who: str, by: Any) -> None:
        from slipway_airflow import acting
        from slipway_airflow.building import opened

        services, release = opened(self.release)
        account = str(by.get("id") or who)
        if why := acting.may_not_approve(services, release, who=who, account=account, earlier=self.earlier):
            raise NotApproved(f"not released: {why}", remedy=_NAME_PEOPLE)

    def _note(self, context: Context, answer: Any) -> None:
        """Into the audit trail, if a person answered (and Slipway's own page or API did not write it)."""
        from slipway_airflow import acting
        from slipway_airflow.building import opened

        by = answer["responded_by_user"] or {}
        if not (who := by.get("name") or by.get("id")):
            return
        services, release = opened(self.release)
        acting.note_answer(
            services,
            release,
            who=str(who),
            account=str(by.get("id") or who),
            approved=list(answer["chosen_options"]) == [self.APPROVE],
            reason=str((answer["params_input"] or {}).get("reason") or ""),
            task=context["ti"].task_id,
            at=answer["responded_at"],
        )

    def _approver(self, chosen: Sequence[str], by: Any) -> str:
        who = (by or {}).get("name") or (by or {}).get("id") or ""
        if list(chosen) != [self.APPROVE]:
            said = f"{who} rejected it" if who else "nobody approved it in time"
            raise NotApproved(f"not released: {said}", remedy="ask them, then release the version again")
        return str(who)


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


def evidence_page(variants: Sequence[Gated], bundle: str) -> str:
    """Markdown: every check of every variant, beside its limit."""
    from slipway_airflow.building import name_of

    rows = [
        f"| {name_of(gated['variant'])} | {check['name']} | {check['observed']:.4g} | {check['limit']:.4g} "
        f"| {'passed' if check['passed'] else '**missed**'} |"
        for gated in variants
        for check in gated["report"]["checks"]
    ]
    head = [f"Bundle `{bundle}`", "", "| candidate | check | observed | limit | |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])
