"""Who may ask a candidate past its weight: whoever shows a token of this installation that has not expired.

A caller that could choose the candidate would decide its verdict: six connections of anybody are a load that
it was not given. A token is a JWT, signed with Ed25519, for one service and some minutes; Envoy verifies it
with the public key and tells the routes in a header that it takes from every caller first. The key is in the
home (0600); what Envoy is told is public, and comes as the clients' keys come (`gateway.authentication`).
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/jwt_authn_filter
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_store.durable import write_file
from model_store.signing import Keyring, key_id
from serving.gateway.xds import Message, discovered_filter, discovery, named_extension, typed
from serving.home import Home

NAME = "slipway.preview"
# What a caller shows, and what the filter says of it to the routes.
TOKEN_HEADER, RIGHT_HEADER = "x-slipway-preview", "x-slipway-preview-of"
ISSUER, CLAIM = "slipway", "preview"

_FILTER = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"


def filters(home: Home, source: Callable[[Path], Message]) -> list[Message]:
    """For the listener. Who shows no token passes, and has no right; who shows a wrong one gets 401."""
    return [discovered_filter(NAME, source(file(home)), _FILTER)]


def file(home: Home) -> Path:
    return home.envoy / "preview.json"


def publish(home: Home) -> None:
    """Tell Envoy the public keys. Safe to repeat."""
    write_file(file(home), render(_keys(home)))


def render(keys: Keyring) -> bytes:
    known = {"keys": [_public(key, seed) for key, seed in zip(keys.public_keys, keys.private, strict=True)]}
    provider = {
        "issuer": ISSUER,
        "local_jwks": {"inline_string": json.dumps(known)},
        "from_headers": [{"name": TOKEN_HEADER}],
        "claim_to_headers": [{"header_name": RIGHT_HEADER, "claim_name": CLAIM}],
        "clear_route_cache": True,
        "require_expiration": True,
    }
    anybody = {"requires_any": {"requirements": [{"provider_name": CLAIM}, {"allow_missing": {}}]}}
    rules = [{"match": {"prefix": "/"}, "requires": anybody}]
    return discovery([named_extension(NAME, typed(_FILTER, providers={CLAIM: provider}, rules=rules))])


def token(
    home: Home, service: str, *, seconds: float, who: str = ISSUER, now: Callable[[], float] = time.time
) -> str:
    """What lets `who` ask the candidate of `service` for so long."""
    # Not where Envoys are: there nothing is signed, and the library is not installed.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = _keys(home).private[0]
    head = {"alg": "EdDSA", "typ": "JWT", "kid": key_id(seed)}
    begun = int(now())
    said = {"iss": ISSUER, "sub": who, CLAIM: service, "iat": begun, "exp": begun + int(seconds)}
    signed = f"{_encoded(head)}.{_encoded(said)}"
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(signed.encode())
    return f"{signed}.{_plain(signature)}"


def _keys(home: Home) -> Keyring:
    return Keyring.of(home.root / "preview-keys.json")


def _public(key: bytes, seed: bytes) -> dict[str, str]:
    used = {"use": "sig", "alg": "EdDSA", "kid": key_id(seed)}
    return {"kty": "OKP", "crv": "Ed25519", "x": _plain(key), **used}


def _encoded(part: dict[str, Any]) -> str:
    return _plain(json.dumps(part, separators=(",", ":")).encode())


def _plain(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
