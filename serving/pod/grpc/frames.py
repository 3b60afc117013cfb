"""HTTP/2 frames: numbers, limits, and how to cut and build them. Source: RFC 9113."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB

SETTING_MAX_CONCURRENT_STREAMS, SETTING_INITIAL_WINDOW, SETTING_MAX_FRAME, SETTING_MAX_HEADER_LIST = (
    3,
    4,
    5,
    6,
)

DEFAULT_WINDOW = 65_535
DEFAULT_MAX_FRAME = 16_384
MAX_WINDOW = 2**31 - 1

# What this side grants: frames as large as they come, and windows wide enough never to slow a client down.
OUR_MAX_FRAME = 1024 * 1024
OUR_STREAM_WINDOW = 8 * 1024 * 1024
OUR_CONNECTION_WINDOW = 64 * 1024 * 1024
OUR_MAX_STREAMS = 1024

HEAD = struct.Struct(">HBBBL")
HEAD_BYTES = 9


class ConnectionBroken(Exception):  # noqa: N818 - a decision, not a fault: GOAWAY follows
    """The peer broke the protocol; `code` goes into GOAWAY."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def preface_size(data: bytes) -> int:
    """How much of the first data is the preface; 0 when more must come to tell. Raises `ConnectionBroken`."""
    if data.startswith(PREFACE):
        return len(PREFACE)
    if PREFACE.startswith(data):
        return 0
    raise ConnectionBroken(PROTOCOL_ERROR, "not the HTTP/2 preface")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    length = len(payload)
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(struct.pack(">HL", key, value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


def increment(payload: bytes) -> int:
    """What a window update grants. Raises `ConnectionBroken` when it is none."""
    if len(payload) != 4:
        raise ConnectionBroken(FRAME_SIZE_ERROR, "a window update has 4 bytes")
    return int.from_bytes(payload) & MAX_WINDOW


def pong(payload: bytes) -> bytes:
    """The answer to a ping. Raises `ConnectionBroken` when it is none."""
    if len(payload) != 8:
        raise ConnectionBroken(FRAME_SIZE_ERROR, "a ping has 8 bytes")
    return frame(PING, ACK, 0, payload)


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def goaway(last_stream: int, code: int, words: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + words[:200])


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload without padding. Raises `ConnectionBroken` when the padding is longer than the frame."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def greeting() -> bytes:
    """What the server says first: its limits, and the connection window opened up."""
    return settings(
        {
            SETTING_MAX_CONCURRENT_STREAMS: OUR_MAX_STREAMS,
            SETTING_INITIAL_WINDOW: OUR_STREAM_WINDOW,
            SETTING_MAX_FRAME: OUR_MAX_FRAME,
            SETTING_MAX_HEADER_LIST: 32 * 1024,
        }
    ) + window_update(0, OUR_CONNECTION_WINDOW - DEFAULT_WINDOW)
