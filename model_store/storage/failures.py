"""What a bucket answered, as `Permanent` or `Retryable` with the true reason and a remedy.

obstore gives most of it as one text: the server's status and its code (`<Code>NoSuchBucket</Code>`), or how
far the connection came.
"""

from __future__ import annotations

import re

from model_store.errors import Permanent, Retryable, SlipwayError, bounded

RETRY_SECONDS = 10.0

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)|\"reason\": *\"(\w+)\"")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "TokenRequest")

_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (gs: GOOGLE_APPLICATION_CREDENTIALS) of an account of it"
)
_BUCKET = "create the bucket, or correct the URL (SLIPWAY_STORAGE_URL)"
_RIGHTS = "let this account read, write, list and delete there, or use the credentials of another"
_ADDRESS = "name a server that speaks S3 (gs: the XML API) in AWS_ENDPOINT_URL"
_CLOCK = "set this machine's clock"
_BY_CODE: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("there is no such bucket", _BUCKET),
    "AccessDenied": ("this account may not do that", _RIGHTS),
    "InvalidAccessKeyId": ("the access key is not known there", _KEYS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _KEYS),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "InvalidToken": ("the session token is not good there", "renew the credentials"),
    "RequestTimeTooSkewed": ("this machine's clock differs too much from the server's", _CLOCK),
    "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION to the bucket's"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "set AWS_REGION to the bucket's"),
}
_BY_STATUS: dict[int, tuple[str, str]] = {
    401: ("the credentials are not good there", _KEYS),
    403: ("this account may not do that", _RIGHTS),
    404: ("there is no such bucket", _BUCKET),
    501: (
        "the server does not know this request",
        "use a server with all of S3's requests (gs: of the XML API's), conditional writes too",
    ),
}
# How far the connection came, by words of the HTTP client's own.
_BY_WORDS: tuple[tuple[str, str, str, bool], ...] = (
    (
        "dns error",
        "its name is not known to DNS",
        "correct the endpoint (AWS_ENDPOINT_URL), or the DNS",
        True,
    ),
    ("ConnectionRefused", "nobody listens there", "start the server, or correct AWS_ENDPOINT_URL", True),
    (
        "kind: Timeout",
        "no answer came in time",
        "see whether the server is overloaded, or a firewall drops",
        True,
    ),
    ("TimedOut", "no answer came in time", "see whether the server is overloaded, or a firewall drops", True),
    (
        "BadScheme",
        "it is not reached by plain HTTP",
        "use https, or say so: AWS_ENDPOINT_URL=http://...",
        False,
    ),
    (
        "UnknownIssuer",
        "its certificate is of an unknown authority",
        "trust that authority on this machine",
        False,
    ),
    ("InvalidContentType", "it does not speak TLS", "write http:// in AWS_ENDPOINT_URL", False),
)


def says_no_object(error: BaseException) -> bool:
    """Whether the bucket is there and the object is not."""
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)


def explained(error: BaseException, url: str, doing: str) -> SlipwayError:
    """The error to raise for what obstore said. One of ours is passed through."""
    if isinstance(error, SlipwayError):
        return error
    said = str(error)
    problem = f"{doing} in {url} failed"
    if any(sign in said for sign in _METADATA):
        return Permanent(f"{problem}: there are no credentials here", remedy=_KEYS)
    status = int(found.group(1)) if (found := _STATUS.search(said)) else 0
    code = next(filter(None, found.groups()), "") if (found := _CODE.search(said)) else ""
    if code in _BY_CODE or status in _BY_STATUS:
        why, remedy = _BY_CODE.get(code) or _BY_STATUS[status]
        return Permanent(f"{problem}: {why}{_server(status, code)}", remedy=remedy)
    if status == 429 or status >= 500:
        why = (
            "the server asks for fewer requests"
            if code == "SlowDown" or status == 429
            else "the server failed"
        )
        return _later(
            f"{problem}: {why}{_server(status, code)}", "it is tried again; see the server's log if it stays"
        )
    if status:
        message = found.group(1) if (found := _MESSAGE.search(said)) else ""
        return Permanent(
            f"{problem}: {message or 'it was refused'}{_server(status, code)}",
            remedy="correct the URL or the request",
        )
    return _connection(problem, said)


def _connection(problem: str, said: str) -> SlipwayError:
    for sign, why, remedy, may_pass in _BY_WORDS:
        if sign in said:
            full = f"{problem}: {why}"
            return _later(full, remedy) if may_pass else Permanent(full, remedy=remedy)
    first = bounded(said.split("\n", 1)[0].removeprefix("Generic "), 300)
    if "HTTP error" in said or "HttpError" in said:
        return _later(f"{problem}: {first}", "see whether the server runs and can be reached from here")
    return Permanent(f"{problem}: the server answers what is no answer ({first})", remedy=_ADDRESS)


def _later(problem: str, remedy: str) -> Retryable:
    return Retryable(problem, remedy=remedy, delay_seconds=RETRY_SECONDS)


def _server(status: int, code: str) -> str:
    told = " ".join(filter(None, (str(status or ""), code)))
    return f" ({told})" if told else ""
