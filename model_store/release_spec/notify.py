"""The section on who is told what. Addresses with secrets in them are named, never written down here."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from model_store.release_spec.section import Found, Section, repeated

Occasion = Literal["promoted", "rolled_back", "blocked", "held", "approval", "late", "alert"]
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
_ADDRESS = re.compile(r"[^@\s<>,;\"]{1,64}@[^@\s<>,;\"]{1,190}")


class Notify(Section):
    """One receiver. `connection` is an Airflow connection; `url_env` and `secret_env` name variables of the
    environment in which Airflow's tasks run. `secret_env` or the connection's password signs webhooks.
    """

    to: Literal["webhook", "slack", "email"]
    connection: Annotated[str, Field(pattern=r"^[\w.-]{1,200}$")] | None = None
    url_env: Variable | None = None
    secret_env: Variable | None = None
    addresses: tuple[str, ...] = ()
    occasions: tuple[Occasion, ...] = Field(default=OCCASIONS, min_length=1)

    @field_validator("addresses")
    @classmethod
    def _addresses_are_some(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f"`{address[:80]}` is no e-mail address")
        return addresses

    def contradictions(self) -> list[Found]:
        found = repeated("addresses", self.addresses) + repeated("occasions", self.occasions)
        if self.to == "email":
            if not self.addresses:
                found.append((("addresses",), "an e-mail needs addresses"))
            if not self.connection:
                found.append((("connection",), "name the Airflow connection of the mail server"))
            if self.url_env or self.secret_env:
                found.append((("url_env",), "an e-mail goes through `connection`"))
            return found
        if bool(self.connection) == bool(self.url_env):
            found.append((("connection",), "name either an Airflow `connection` or `url_env`"))
        if self.addresses:
            found.append((("addresses",), f"a {self.to} has no addresses"))
        if self.to == "webhook" and self.url_env and not self.secret_env:
            found.append((("secret_env",), "a webhook is signed: name the variable with its secret"))
        if self.to == "slack" and self.secret_env:
            found.append((("secret_env",), "Slack's address is its secret"))
        return found
