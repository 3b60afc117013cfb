"""NaN and infinity in JSON, which has no numbers for them: what they are called, going out and coming in.

Out: by name, in quotes. In: by name, bare as Python and Triton write them, or (NaN) as null.
docs/decisions/0107-nan-in-json.md says why.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson

from model_store.engines.errors import Refused

_NAN = float("nan")
_NAMED = {"NaN": _NAN, "Infinity": float("inf"), "-Infinity": float("-inf")}
_PRINTED = {"nan": b'"NaN"', "inf": b'"Infinity"', "-inf": b'"-Infinity"'}
_NULL = re.compile(b"null")
# What bare words become before the text is parsed, the longest first: null, and objects with a sign.
_BARE = "no number"
_BARE_WORDS = (
    (b"-Infinity", b'{"%s":-1}' % _BARE.encode()),
    (b"Infinity", b'{"%s":1}' % _BARE.encode()),
    (b"NaN", b"null"),
)
_SIGNED = {-1: float("-inf"), 1: float("inf")}
# Each costs memory before anything is known of the request.
_MOST_QUOTES, _MOST_INFINITIES = 200_000, 100_000


def parse(text: bytes) -> Any:
    """JSON with bare NaN and infinity. Raises `orjson.JSONDecodeError`, and `Refused` (413) for too many."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"NaN" not in text and b"Infinity" not in text:
            raise
        return orjson.loads(_without_bare_words(text))


def number(value: Any) -> Any:
    """The float that a parsed value stands for; any other value as it is."""
    if value is None:
        return _NAN
    if type(value) is dict and value.keys() == {_BARE}:
        return _SIGNED.get(value[_BARE], value)
    return _NAMED.get(value, value) if type(value) is str else value


def named(printed: bytes, values: np.ndarray) -> bytes:
    """`values` as orjson prints them, with their names in place of its nulls."""
    names = iter([_PRINTED[str(value)] for value in values[~np.isfinite(values)].tolist()])
    return _NULL.sub(lambda _: next(names), printed)


def _without_bare_words(text: bytes) -> bytes:
    """What stands for such numbers in their place, outside strings."""
    if b"\0" in text:
        return text
    if text.count(b'"') > _MOST_QUOTES or text.count(b"Infinity") > _MOST_INFINITIES:
        raise Refused(
            "bare NaN or infinity among very many strings or infinities",
            remedy="write them in quotes, or send binary data",
            status=413,
        )
    # JSON has no zero byte: in its place an escape cannot be taken for the end of a string.
    hidden = text.replace(b"\\\\", b"\0\1").replace(b'\\"', b"\0\2")
    parts = hidden.split(b'"')
    # Every other part is inside quotes.
    for at in range(0, len(parts), 2):
        for word, stand_in in _BARE_WORDS:
            parts[at] = parts[at].replace(word, stand_in)
    return b'"'.join(parts).replace(b"\0\2", b'\\"').replace(b"\0\1", b"\\\\")
