"""The signatures of webhooks, verified by the reference implementation."""

import base64
import hashlib
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from umrgen.server.services.api_keys import hash_key
from umrgen.server.webhooks.signing import secret_of, sign

SECRET = secret_of(hash_key("umr_some_key_of_somebody"))


@given(st.binary(min_size=32, max_size=32), st.text(max_size=200))
def test_the_reference_implementation_accepts_a_signature(key_hash: bytes, text: str) -> None:
    secret, now, body = secret_of(key_hash), int(time.time()), text.encode("utf-8", "replace")
    headers = sign(secret, "msg_1", now, body)
    Webhook(secret).verify(body, headers, json_parse=False)


@pytest.mark.parametrize("changed", ["body", "id", "timestamp", "secret"])
def test_the_reference_implementation_refuses_a_changed_message(changed: str) -> None:
    body, secret = b"{}", SECRET
    headers = sign(secret, "msg_1", int(time.time()), body)
    if changed == "body":
        body = b"{ }"
    elif changed == "secret":
        secret = secret_of(hash_key("umr_another_key"))
    elif changed == "id":
        headers["webhook-id"] = "msg_2"
    else:
        headers["webhook-timestamp"] = str(int(headers["webhook-timestamp"]) - 1)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_the_secret_can_be_computed_from_the_key() -> None:
    key_hash = hashlib.sha256(b"umr_some_key_of_somebody").digest()
    digest = hmac.new(key_hash, b"umrgen webhook", hashlib.sha256).digest()
    assert "whsec_" + base64.b64encode(digest).decode() == SECRET
