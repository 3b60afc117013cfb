"""What MLflow says happened, read with care: the sender is known, the names in it anybody may have chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from model_store.errors import Permanent
from model_store.release_spec import MODEL_NAME

# Entity and action of what is asked for; `registration` says it to MLflow.
EVENTS = (
    ("model_version", "created"),
    ("model_version_alias", "created"),
    ("model_version_alias", "deleted"),
    ("model_version_tag", "set"),
)
OUR_TAGS = "slipway."

Name = Annotated[str, Field(max_length=300)]


class RefusedEvent(Permanent):
    """A delivery from MLflow that is none we asked for."""


class RegistryEventData(BaseModel):
    """The fields we use; others come with newer versions."""

    name: Name
    version: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None = None
    alias: Name | None = None
    key: Name | None = None


class RegistryEvent(BaseModel):
    """`mlflow.webhooks.types`: one change of the registry."""

    entity: Literal["model_version", "model_version_alias", "model_version_tag"]
    action: Literal["created", "deleted", "set"]
    timestamp: AwareDatetime
    data: RegistryEventData

    @property
    def kind(self) -> str:
        return f"{self.entity}.{self.action}"

    @property
    def is_ours(self) -> bool:
        """Whether Slipway itself did it: tags that say what became of a version, the alias `champion`."""
        return (self.data.key or "").startswith(OUR_TAGS) or self.data.alias == "champion"


def read_event(body: bytes) -> RegistryEvent:
    """Raises `RefusedEvent` when this is none of `EVENTS`, or names no model that could exist here."""
    try:
        event = RegistryEvent.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RefusedEvent(
            f"no event of MLflow's registry: {where} {first['msg']}", remedy="send MLflow's webhook format"
        ) from None
    if (event.entity, event.action) not in EVENTS:
        raise RefusedEvent(f"{event.kind} was not asked for", remedy="run `slipway webhooks sync`")
    if not MODEL_NAME.fullmatch(event.data.name):
        raise RefusedEvent(
            "the model's name is none that a spec may have", remedy="nothing: it is not released here"
        )
    return event
