"""Why a request got no response, in words of this package: the texts of other libraries' exceptions are not shown."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator

__all__ = ["disk_reason", "failure_reason"]

_CERTIFICATES = {
    10: "has expired",
    18: "is self-signed",
    19: "is signed by an authority that this machine does not trust",
    20: "is signed by an authority that this machine does not trust",
    62: "is for another host name",
    64: "is for another IP address",
}
"""What OpenSSL's verification codes mean."""
_PLAIN_REPLIES = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's reasons when the peer does not speak TLS."""
_CLOSED = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ENOTCONN}


def failure_reason(error: BaseException) -> str:
    """Return why a request failed, by the cause of an exception of an HTTP library."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its TLS certificate {_CERTIFICATES.get(cause.verify_code, 'is not valid')}"
        if isinstance(cause, ssl.SSLError):
            return _tls_reason(cause)
        if isinstance(cause, socket.gaierror):
            return "its host name has no address"
        if isinstance(cause, OSError) and cause.errno:
            return _system_reason(cause.errno)
    return _KINDS.get(type(error).__name__, "the connection failed")


def disk_reason(error: OSError) -> str:
    """Return why a call of the file system failed, in the words of the operating system."""
    return os.strerror(error.errno) if error.errno else "an error of the operating system"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and those that it was raised from, the first cause last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tls_reason(error: ssl.SSLError) -> str:
    if error.reason in _PLAIN_REPLIES:
        return "it responds without TLS at this port; use http:// if that is intended"
    return "the TLS handshake failed; if the server has no TLS, use http://"


def _system_reason(number: int) -> str:
    if number == errno.ECONNREFUSED:
        return "the connection was refused"
    if number in _CLOSED:
        return "the server closed the connection"
    if number == errno.ETIMEDOUT:
        return "no connection in time"
    return os.strerror(number).lower()


_CLOSED_EARLY = "the server closed the connection without a full response"
_INVALID = "the response is not valid HTTP; if the server uses TLS, use https://"
_KINDS = {
    # httpx2
    "ConnectTimeout": "no connection in time",
    "PoolTimeout": "too many concurrent requests of this client",
    "ReadTimeout": "no response in time",
    "WriteTimeout": "the request was not sent in time",
    "RemoteProtocolError": "the response is not valid HTTP, or is incomplete",
    "LocalProtocolError": "the request cannot be sent as HTTP",
    "InvalidURL": "the address is not valid",
    "UnsupportedProtocol": "the address is not valid",
    "ReadError": _CLOSED_EARLY,
    "WriteError": _CLOSED_EARLY,
    "CloseError": _CLOSED_EARLY,
    "ProxyError": "the proxy of the environment refused the connection",
    # http.client
    "RemoteDisconnected": _CLOSED_EARLY,
    "IncompleteRead": _CLOSED_EARLY,
    "BadStatusLine": _INVALID,
    "LineTooLong": "the response has a header line that is too long",
    "TimeoutError": "no response in time",
}
"""The reason by the name of an exception's class, where the exception has no cause of the system."""
