"""Signatures of Standard Webhooks (standardwebhooks.com), with a secret that is derived from the API key."""

import base64
import hashlib
import hmac

__all__ = ["secret_of", "sign"]

PREFIX = "whsec_"


def secret_of(key_hash: bytes) -> str:
    """Return the webhook secret of the API key with this SHA-256 hash.

    It is derived, so the ledger stores no further secret; an HMAC of the hash discloses neither the hash nor the key.
    """
    return PREFIX + base64.b64encode(hmac.digest(key_hash, b"umrgen webhook", hashlib.sha256)).decode()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that authenticate `body`; `timestamp` in seconds since the epoch."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = hmac.digest(key, b"%b.%d.%b" % (webhook_id.encode(), timestamp, body), hashlib.sha256)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
