"""S3's errors in this program's words: obstore reports them as long texts, of which a code and a status are read."""

import re

__all__ = ["describe", "is_beyond_end", "is_missing_object"]

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_STATUS = re.compile(r"status code: ([0-9]{3})")
NEXT = "Check that S3 is up, and that this machine reaches it (s3_endpoint, AWS_ENDPOINT_URL, AWS_REGION)."
CREDENTIALS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and that they may read, write, list and delete there."
_ADVICE = {
    "NoSuchBucket": "Create the bucket first, or correct its name in --blobs.",
    "InvalidAccessKeyId": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "AccessDenied": CREDENTIALS,
    "ExpiredToken": CREDENTIALS,
    "InvalidToken": CREDENTIALS,
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "PermanentRedirect": "Set AWS_REGION to the region of the bucket.",
    "AuthorizationHeaderMalformed": "Set AWS_REGION to the region of the bucket.",
}
"""Advice by S3's error code; other errors get the general advice."""
_REASONS = {
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": "S3 does not know the access key",
    "SignatureDoesNotMatch": "S3 does not accept the secret key",
    "AccessDenied": "S3 denies access to these credentials",
}


def _found(pattern: re.Pattern[str], error: Exception) -> str:
    match = pattern.search(str(error))
    return match[1] if match else ""


def describe(error: Exception) -> tuple[str, str]:
    """Return the reason of an error, and advice. Nothing but S3's code and status is taken from its text."""
    code, status = _found(_CODE, error), _found(_STATUS, error)
    answer = code or (f"HTTP {status}" if status else "")
    reason = _REASONS.get(code) or (f"S3 answered {answer}" if answer else "S3 does not answer")
    advice = _ADVICE.get(code) or (CREDENTIALS if status in ("401", "403") else NEXT)
    return reason, advice


def is_missing_object(error: Exception) -> bool:
    """Return whether the error says that the object does not exist, in a bucket that does."""
    return isinstance(error, FileNotFoundError) and _found(_CODE, error) == "NoSuchKey"


def is_beyond_end(error: Exception) -> bool:
    """Return whether the error says that the range begins at or after the end of the object."""
    return _found(_STATUS, error) == "416"
