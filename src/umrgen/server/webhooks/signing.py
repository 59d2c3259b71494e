"""Signatures of Standard Webhooks (standardwebhooks.com), with a secret that the key's holder can work out."""

import base64
import hashlib
import hmac

__all__ = ["secret_of", "sign"]

PREFIX = "whsec_"


def secret_of(key_hash: bytes) -> str:
    """The webhook secret that belongs to the API key with this SHA-256 hash.

    Derived, so the ledger holds nothing more than it did; and another use of the hash than checking a key,
    so neither gives the other away.
    """
    return PREFIX + base64.b64encode(hmac.digest(key_hash, b"umrgen webhook", hashlib.sha256)).decode()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent `body` and when; `timestamp` in seconds since the epoch."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = hmac.digest(key, b"%b.%d.%b" % (webhook_id.encode(), timestamp, body), hashlib.sha256)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
