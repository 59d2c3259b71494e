"""UMRGEN: a prompt becomes a verified image file, through a job that nothing can lose.

Each public name is loaded from its module on first use, so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "Client": "client.client",
    "AsyncClient": "client.async_client",
    "wait_and_download": "client.client",
    "Capabilities": "client.descriptions",
    "ListedJob": "client.descriptions",
    "ReferenceImage": "client.descriptions",
    "RequestTemplate": "client.descriptions",
    "ServerVerification": "client.descriptions",
    "Event": "client.flow",
    "Options": "client.flow",
    "Status": "model",
    "State": "model",
    "SavedImage": "image_files",
    "Provenance": "provenance",
    "Verification": "provenance",
    "verify": "provenance",
    "UmrgenError": "errors",
    "UmrgenWarning": "errors",
    "ApiError": "errors",
    "Unauthorized": "errors",
    "Forbidden": "errors",
    "JobNotFound": "errors",
    "RateLimited": "errors",
    "ConcurrencyLimit": "errors",
    "InvalidRequest": "errors",
    "ContentPolicy": "errors",
    "ServerError": "errors",
    "NotUmrgen": "errors",
    "Unsupported": "errors",
    "ConnectionFailed": "errors",
    "JobFailed": "errors",
    "JobStalled": "errors",
    "WaitTimeout": "errors",
    "OutputMissing": "errors",
    "OutputForbidden": "errors",
    "OutputCorrupt": "errors",
    "TargetUnusable": "errors",
}

__all__ = [
    "ApiError",
    "AsyncClient",
    "Capabilities",
    "Client",
    "ConcurrencyLimit",
    "ConnectionFailed",
    "ContentPolicy",
    "Event",
    "Forbidden",
    "InvalidRequest",
    "JobFailed",
    "JobNotFound",
    "JobStalled",
    "ListedJob",
    "NotUmrgen",
    "Options",
    "OutputCorrupt",
    "OutputForbidden",
    "OutputMissing",
    "Provenance",
    "RateLimited",
    "ReferenceImage",
    "RequestTemplate",
    "SavedImage",
    "ServerError",
    "ServerVerification",
    "State",
    "Status",
    "TargetUnusable",
    "UmrgenError",
    "UmrgenWarning",
    "Unauthorized",
    "Unsupported",
    "Verification",
    "WaitTimeout",
    "verify",
    "wait_and_download",
]

if TYPE_CHECKING:
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.client import Client, wait_and_download
    from umrgen.client.descriptions import Capabilities, ListedJob, ReferenceImage, RequestTemplate, ServerVerification
    from umrgen.client.flow import Event, Options
    from umrgen.errors import (
        ApiError,
        ConcurrencyLimit,
        ConnectionFailed,
        ContentPolicy,
        Forbidden,
        InvalidRequest,
        JobFailed,
        JobNotFound,
        JobStalled,
        NotUmrgen,
        OutputCorrupt,
        OutputForbidden,
        OutputMissing,
        RateLimited,
        ServerError,
        TargetUnusable,
        UmrgenError,
        UmrgenWarning,
        Unauthorized,
        Unsupported,
        WaitTimeout,
    )
    from umrgen.image_files import SavedImage
    from umrgen.model import State, Status
    from umrgen.provenance import Provenance, Verification, verify


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"umrgen.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'umrgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
