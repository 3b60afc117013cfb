"""What goes wrong with a storage is told with its true reason and a remedy, and whether it may pass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.storage import remote
from model_store.storage.base import Missing, ObjectStorage
from model_store.storage.opening import open_storage
from model_store.storage.remote import BucketStorage
from tests import s3

# As the product's, but for tests' patience.
SOON = {"max_retries": 1, "retry_timeout": timedelta(seconds=2)}
BRIEF = {"connect_timeout": timedelta(seconds=1), "read_timeout": timedelta(seconds=1)}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """A storage as seen with these variables."""

    def storage(url: str, environ: Mapping[str, str]) -> ObjectStorage:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return BucketStorage(url, environ, retries=SOON, client=BRIEF)

    return storage


def each_refusal(storage: ObjectStorage, tmp_path: Path) -> Iterator[SlipwayError]:
    """Of every operation that writes or reads."""
    large = tmp_path / "large"
    large.write_bytes(bytes(remote.PART_BYTES + 1))
    for act in (
        lambda: storage.get("key"),
        lambda: storage.head("key"),
        lambda: list(storage.list("prefix")),
        lambda: storage.put("key", b"x"),
        lambda: storage.create("key2", b"x"),
        lambda: storage.put_file("large", large),
        lambda: storage.delete("key"),
    ):
        with pytest.raises(SlipwayError) as found:
            act()
        assert storage.url in found.value.problem
        assert found.value.remedy
        yield found.value


def test_a_wrong_secret_is_named_as_such(s3_server: s3.Server, at, tmp_path: Path) -> None:
    storage = at(s3_server.url(), s3_server.as_account((s3.WRITER[0], "not this")))
    refused = list(each_refusal(storage, tmp_path))
    assert {type(error) for error in refused} == {Permanent}
    assert "the secret key does not belong to the access key" in refused[0].problem
    assert "AWS_SECRET_ACCESS_KEY" in refused[0].remedy
    assert "not this" not in "".join(map(str, refused))


def test_an_unknown_account_is_named_as_such(s3_server: s3.Server, at) -> None:
    storage = at(s3_server.url(), s3_server.as_account(("nobody", "x")))
    with pytest.raises(Permanent, match="the access key is not known there"):
        storage.get("key")


def test_who_may_only_read_is_told_what_he_lacks(s3_server: s3.Server, at) -> None:
    url = s3_server.url()
    at(url, s3_server.environment).put("key", b"x")
    storage = at(url, s3_server.as_account(s3.READER))
    assert storage.get("key") == b"x"
    for act in (
        lambda: storage.put("key", b"y"),
        lambda: storage.delete("key"),
        lambda: storage.create("k", b""),
    ):
        with pytest.raises(Permanent, match="this account may not do that") as found:
            act()
        assert "let this account" in found.value.remedy


def test_a_bucket_that_is_not_there_is_no_missing_object(s3_server: s3.Server, at) -> None:
    storage = at("s3://no-such-bucket/prefix", s3_server.environment)
    for act in (lambda: storage.get("key"), lambda: list(storage.list("prefix"))):
        with pytest.raises(Permanent, match="there is no such bucket") as found:
            act()
        assert not isinstance(found.value, Missing)
        assert "create the bucket" in found.value.remedy


def test_nobody_listening_may_pass(at, tmp_path: Path) -> None:
    storage = at("s3://models/p", {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    refused = list(each_refusal(storage, tmp_path))
    assert {type(error) for error in refused} == {Retryable}
    assert "nobody listens there" in refused[0].problem


def test_a_name_that_dns_does_not_know_may_pass(at) -> None:
    storage = at("s3://models/p", {**KEYS, "AWS_ENDPOINT_URL": "http://no-such-host.invalid"})
    with pytest.raises(Retryable, match="its name is not known to DNS"):
        storage.get("key")


def test_a_server_that_says_nothing_may_pass(at) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        storage = at(
            "s3://models/p", {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        )
        with pytest.raises(Retryable, match="no answer came in time"):
            storage.get("key")


KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that has one answer for everything; its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "body"), [(503, SLOW_DOWN), (500, b"oops"), (429, b"")])
def test_a_server_that_is_overloaded_or_broken_may_pass(at, tmp_path: Path, status: int, body: bytes) -> None:
    with answering(status, body) as address:
        storage = at("s3://models/p", {**KEYS, "AWS_ENDPOINT_URL": address})
        refused = list(each_refusal(storage, tmp_path))
    assert {type(error) for error in refused} == {Retryable}
    assert all(str(status) in error.problem for error in refused)
    if body == SLOW_DOWN:
        assert "the server asks for fewer requests (503 SlowDown)" in refused[0].problem


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "RequestTimeTooSkewed", "this machine's clock"),
        (400, "ExpiredToken", "the credentials have expired"),
        (400, "AuthorizationHeaderMalformed", "another region"),
        (400, "SomethingNew", "What AWS thinks up next (400 SomethingNew)"),
        (501, "NotImplemented", "the server does not know this request"),
    ],
)
def test_what_stays_wrong_is_said_in_the_servers_code(at, status: int, code: str, says: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>What AWS thinks up next</Message></Error>".encode()
    with answering(status, body) as address:
        storage = at("s3://models/p", {**KEYS, "AWS_ENDPOINT_URL": address})
        with pytest.raises(Permanent) as found:
            storage.put("key", b"x")
    assert says in found.value.problem


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>welcome</html>"), (200, b""), (302, b"")])
def test_a_server_that_is_no_storage_at_all_is_not_waited_for(at, status: int, body: bytes) -> None:
    with answering(status, body) as address:
        storage = at("s3://models/p", {**KEYS, "AWS_ENDPOINT_URL": address})
        for act in (lambda: storage.put("key", b"x"), lambda: storage.head("key")):
            with pytest.raises(Permanent, match=r"is no answer|another region") as found:
                act()
            assert "AWS_" in found.value.remedy


def test_plain_http_is_only_for_who_wrote_it(at) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(SlipwayError):
            at(
                "s3://models/p",
                {**KEYS, "AWS_ENDPOINT_URL": f"https://127.0.0.1:{listener.getsockname()[1]}"},
            ).get("k")


@pytest.mark.parametrize(
    "url",
    ["s3://key:secret@bucket/x", "s3://bucket/x?token=secret", "s3:///x", "http://secret@host/x", "bucket/x"],
)
def test_a_url_with_credentials_or_of_nothing_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(Permanent) as found:
        open_storage(url)
    assert "secret" not in str(found.value)
