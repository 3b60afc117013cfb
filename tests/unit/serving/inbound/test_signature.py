"""Who may tell us something, and when."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.inbound.deliveries import WINDOW, Unsigned, require_signed, sign, stamp_of

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
BODY = b'{"entity":"model_version"}'


def headers(
    secret: str = "hush", changed: dict[str, str] | None = None, *, at: datetime = NOW
) -> dict[str, str]:
    seconds = int(at.timestamp())
    made = {
        "x-mlflow-delivery-id": ID,
        "x-mlflow-timestamp": str(seconds),
        "x-mlflow-signature": sign(secret, ID, seconds, BODY),
    }
    return {**made, **(changed or {})}


def believe(said: dict[str, str], body: bytes = BODY, *, now: datetime = NOW) -> None:
    stamp_of(said, now=now)
    require_signed(said, body, ["hush"])


def test_what_mlflow_signs_is_believed() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    seconds = str(int(NOW.timestamp()))
    signature = _generate_hmac_signature("hush", ID, seconds, BODY.decode())
    believe(headers(changed={"x-mlflow-signature": signature}))


@pytest.mark.parametrize(
    "signature",
    ["", "v1,", "v1,%%%", "v1", "v2," + base64.b64encode(b"x" * 32).decode(), "v1,é", "v1,AAAA"],
)
def test_a_forged_or_broken_signature_is_refused(signature: str) -> None:
    with pytest.raises(Unsigned):
        believe(headers(changed={"x-mlflow-signature": signature}))


def test_another_secret_and_another_body_are_refused() -> None:
    with pytest.raises(Unsigned):
        believe(headers("other"))
    with pytest.raises(Unsigned):
        believe(headers(), BODY + b" ")


def test_a_signed_id_or_time_cannot_be_exchanged() -> None:
    other = "1f8fad5b-d9cb-469f-a165-70867728950e"
    with pytest.raises(Unsigned):
        believe(headers(changed={"x-mlflow-delivery-id": other}))
    with pytest.raises(Unsigned):
        believe(headers(changed={"x-mlflow-timestamp": str(int(NOW.timestamp()) + 1)}))


def test_the_signed_text_cannot_be_split_in_another_place() -> None:
    """`id.time.body`: the beginning of the body must not become the time, nor the other way."""
    seconds = int(NOW.timestamp())
    signature = sign("hush", ID, seconds, b"1.{}")
    shifted = {
        "x-mlflow-signature": signature,
        "x-mlflow-delivery-id": f"{ID}.{seconds}",
        "x-mlflow-timestamp": "1",
    }
    with pytest.raises(Unsigned):
        stamp_of(shifted, now=datetime.fromtimestamp(1, UTC))


@pytest.mark.parametrize("off", [timedelta(minutes=-4), timedelta(minutes=4), WINDOW, -WINDOW])
def test_clocks_that_are_minutes_apart_are_forgiven(off: timedelta) -> None:
    believe(headers(), now=NOW + off)


@pytest.mark.parametrize("off", [timedelta(minutes=6), timedelta(minutes=-6), timedelta(days=900)])
def test_a_stale_delivery_and_one_from_the_future_are_refused(off: timedelta) -> None:
    with pytest.raises(Unsigned, match=r"before now|after now"):
        believe(headers(), now=NOW + off)


@pytest.mark.parametrize("seconds", ["", "-1", "1e9", "９", "1" * 40, " 1", "nan"])
def test_a_timestamp_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(Unsigned):
        stamp_of(headers(changed={"x-mlflow-timestamp": seconds}), now=NOW)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(headers())), st.text(max_size=80)), st.binary(max_size=80))
def test_no_headers_whatever_do_anything_but_be_refused(said: dict[str, str], body: bytes) -> None:
    with pytest.raises(Unsigned):
        believe(said, body)
