"""A head seen before gives the same request as parsing it would."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.pod.buffers import OwnBuffers, scratch
from serving.pod.held import HeldBytes
from serving.pod.http.connection import Connection
from serving.pod.http.exchange import Exchange
from serving.pod.http.heads import Heads


class Front:
    """Remembers what arrived, and answers it at once."""

    max_body_bytes = 10_000

    def __init__(self, heads: Heads) -> None:
        self.heads, self.loop = heads, Transport()
        self.buffers, self.scratch = OwnBuffers(), scratch()
        self.held = HeldBytes(self.max_body_bytes)
        self.arrived: list[tuple[Any, ...]] = []

    def clock(self) -> float:
        return 1.0

    def opened(self, connection: Connection) -> None: ...

    def dispatch(self, exchange: Exchange) -> None:
        one = exchange
        self.arrived.append((one.method, one.target, dict(one.headers), one.body, one.keep_alive))
        exchange.reply(b"")


class Transport:
    is_closed = False

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def call_later(self, *_: object) -> None:
        """The front's loop, too: nothing comes after the test."""


class Forgetful(Heads):
    """Has never seen a head."""

    def find(self, data: bytes) -> None:
        return None


def arrived(pieces: list[bytes], heads: Heads) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    front, transport = Front(heads), Transport()
    connection = Connection(front)  # type: ignore[arg-type]
    connection.connection_made(transport)  # type: ignore[arg-type]
    for piece in pieces:
        connection.data_received(piece)
    return front.arrived, transport.written


def request(*lines: bytes, body: bytes = b"", start: bytes = b"POST /infer HTTP/1.1") -> bytes:
    return b"\r\n".join([start, *lines, b"content-length: %d" % len(body), b"", body])


LINES = st.sampled_from(
    [
        b"host: a",
        b"x-request-id: 1\t",
        b"Host: b",
        b"x-request-id: 1",
        b"x-request-id: 22-aB",
        b"x-request-id: ",
        b"x-request-id: a b",
        b"X-Request-Id: 7",
        b"traceparent: 00-11-22-01",
        b"traceparent: 00-33-44-00",
        b"connection: close",
        b"expect: 100-continue",
        b"x-slipway-priority: high",
        b"x-slipway-priority: low",
    ]
)
BODIES = st.sampled_from([b"", b"{}", b"\r\n\r\n", b"abc", b"POST /infer HTTP/1.1\r\n\r\n"])
STARTS = st.sampled_from([b"POST /infer HTTP/1.1", b"GET /infer HTTP/1.1", b"POST /infer HTTP/1.0"])
REQUESTS = st.builds(
    lambda lines, body, start: request(*lines, body=body, start=start),
    st.lists(LINES, max_size=3),
    BODIES,
    STARTS,
)
BROKEN = st.sampled_from(
    [
        b"POST /infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /infer HTTP/1.1\n\n",
        b"POST /infer HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"\r\n",
        b"nonsense\r\n\r\n",
    ]
)


@st.composite
def conversations(draw: st.DrawFn) -> list[list[bytes]]:
    """What connections one after the other send, piece by piece. Few requests, so that heads come back."""
    few = draw(st.lists(REQUESTS, min_size=1, max_size=2))
    some = st.lists(st.sampled_from(few) | st.sampled_from(few) | BROKEN, min_size=1, max_size=4)
    return [_cut(draw, draw(some)) for _ in range(3)]


def _cut(draw: st.DrawFn, pieces: list[bytes]) -> list[bytes]:
    cut = draw(st.sampled_from(["whole", "together", "halves"]))
    if cut == "together":
        return [b"".join(pieces)]
    if cut == "halves":
        whole = b"".join(pieces)
        at = draw(st.integers(1, len(whole)))
        return [part for part in (whole[:at], whole[at:]) if part]
    return pieces


@settings(max_examples=1000, deadline=None)
@given(conversations())
def test_remembering_heads_changes_no_request_and_no_answer(several: list[list[bytes]]) -> None:
    heads = Heads()
    for pieces in several:
        assert arrived(pieces, heads) == arrived(pieces, Forgetful())


def test_only_the_first_of_equal_heads_is_parsed() -> None:
    heads = Heads()
    lines = [b"host: a", b"x-request-id: %d", b"content-type: application/json"]
    first, *others = [request(*lines[:1], lines[1] % n, lines[2], body=b"{%d}" % n) for n in range(5)]
    assert heads.find(first) is None
    arrived([first], heads)
    for number, other in enumerate(others, start=1):
        found = heads.find(other)
        assert found is not None
        head, body = found
        assert (head.headers[b"x-request-id"], body) == (b"%d" % number, b"{%d}" % number)


def test_what_clients_make_it_remember_is_bounded_and_given_up() -> None:
    heads = Heads()
    for number in range(2000):
        arrived([request(b"x-client: %d" % number)], heads)
    assert heads.find(request(b"x-client: 0")) is not None
    assert heads.find(request(b"x-client: 1999")) is None
    heads.sweep()
    arrived([request(b"x-client: 1999")], heads)
    assert heads.find(request(b"x-client: 1999")) is not None


def test_a_request_is_not_taken_for_the_one_that_came_in_the_same_piece() -> None:
    one, other = request(b"host: a", body=b"{1}"), request(b"host: b", body=b"{2}")
    heads = Heads()
    arrived([one + other], heads)
    assert heads.find(one) is None
    assert heads.find(other) is None


def test_a_known_head_with_an_id_that_no_header_may_have_is_parsed_and_refused() -> None:
    heads = Heads()
    arrived([request(b"x-request-id: 1")], heads)
    for odd in (b"\x00", b"\x01", b"1\n2", b"a" * 200):
        assert heads.find(request(b"x-request-id: " + odd)) is None


def test_a_body_that_looks_like_a_known_request_stays_a_body() -> None:
    heads, known = Heads(), request(b"host: a")
    arrived([known], heads)
    head, body = request(b"host: b", body=known)[: -len(known)], known
    assert [one[3] for one in arrived([head, body], heads)[0]] == [known]
