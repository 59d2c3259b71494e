"""The settings that a running server applies again on SIGHUP, and the description of a change for the log."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from umrgen.server.setting_values import without_secret
from umrgen.server.settings import Settings

__all__ = ["RELOADED", "applied", "describe", "need_restart"]

RELOADED = (
    "rate",
    "concurrent",
    "daily",
    "session_queued",
    "allowed_hosts",
    "policy",
    "retain_days",
    "retain_gib",
    "retain_records",
    "upload_hours",
    "disk_reserve",
    "metrics_token",
    "access_log",
    "log_level",
    "log_prompts",
)
"""The settings that `Application.reload` applies; others need a restart."""
SECRET = frozenset(("api_key", "metrics_token", "ledger"))
"""Settings whose values are not logged: secrets, and URLs with a password."""


def applied(settings: Settings) -> dict[str, Any]:
    """Return the values of the settings that a running server applies, by name."""
    return {name: getattr(settings, name) for name in RELOADED}


def describe(old: Settings, new: Settings, names: Mapping[str, Any]) -> str:
    """Return each change among the settings `names` as `name old → new`, without secrets; "" without a change."""
    return ", ".join(_change(name, old, new) for name in names if getattr(old, name) != getattr(new, name))


def need_restart(old: Settings, new: Settings) -> str:
    """Return the changes that are without effect until the server is started again, as `describe` does."""
    return describe(old, new, {field.name: None for field in fields(Settings) if field.name not in RELOADED})


def _change(name: str, old: Settings, new: Settings) -> str:
    if name in SECRET:
        return f"{name} (another value)"
    return f"{name} {_shown(getattr(old, name))} → {_shown(getattr(new, name))}"


def _shown(value: Any) -> str:
    text = ",".join(map(without_secret, value)) if isinstance(value, tuple) else without_secret(str(value))
    return text or "none"
