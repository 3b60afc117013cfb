"""Which way of telling Envoys an installation has: `SLIPWAY_GATEWAY_DELIVERY`, kept by `slipway up`."""

from __future__ import annotations

from model_store.errors import Permanent
from serving.gateway.delivery.ads.source import Ads
from serving.gateway.delivery.base import Delivery
from serving.gateway.delivery.files import Files
from serving.home import ADS, DELIVERY, FILES, Home

_KNOWN: dict[str, type[Ads] | type[Files]] = {FILES: Files, ADS: Ads}


def delivery_of(home: Home) -> Delivery:
    """Raises `Permanent` for a name that there is not."""
    if (made := _KNOWN.get(home.delivery)) is None:
        raise Permanent(
            f"{DELIVERY}={home.delivery!r} is no way to tell Envoys of routes",
            remedy=f"give one of: {', '.join(_KNOWN)}",
        )
    return made(home)
