"""Every setting of the server: one frozen value, from flags, then environment, then defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.paths import data_home

__all__ = ["BadSettings", "Settings", "setting_names"]


class BadSettings(UmrgenError):
    """The server cannot start with these settings."""

    code = "bad_settings"


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one server; each is a flag `--name` and a variable `UMRGEN_NAME` too."""

    host: str = _setting("127.0.0.1", "address to listen on; anything but loopback needs a key first")
    port: int = _setting(3088, "port to listen on; 0 takes a free one")
    state: Path = field(default_factory=data_home, metadata={"help": "folder of the ledger, the keys and the images"})
    api_key: str = _setting("", "a key of your own to accept beside those of `umrgen keys` (20 characters or more)")
    engine: str = _setting("procedural", "what draws the images; one of your own is named module:Class")
    step_delay: float = _setting(0.0, "seconds the procedural engine waits after each step, for demonstrations")
    lease: float = _setting(30.0, "seconds a job stays with a worker that no longer says it is alive")
    max_attempts: int = _setting(3, "how often a job is tried when its engine crashes")
    max_interruptions: int = _setting(20, "how often a job is run again after restarts of the server")
    cancel_grace: float = _setting(5.0, "seconds an engine has to stop before it is killed")
    stall_after: float = _setting(60.0, "seconds without a step after which an engine is replaced")
    load_timeout: float = _setting(600.0, "seconds an engine has to load")
    engine_memory: int = _setting(0, "MiB that an engine may take, beside its GPU's; 0: no limit")
    session_running: int = _setting(0, "jobs of one session that run at once; 0: as many as there are slots")
    session_queued: int = _setting(10_000, "jobs of one session that may wait in the queue; 0: no limit")
    drain: float = _setting(20.0, "seconds running jobs have to finish when the server is told to stop")
    max_wait: float = _setting(60.0, "longest time, in seconds, that one call is held by Prefer: wait")
    webhook_allow: str = _setting(
        "", "host names, addresses and networks that webhooks may go to beside public ones, comma-separated"
    )
    cache: int = _setting(64, "MiB of finished images kept in memory")

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def load(cls, flags: Mapping[str, Any], environment: Mapping[str, str]) -> "Settings":
        """Flags win over the environment. Raises BadSettings naming the one that is wrong."""
        values: dict[str, Any] = {}
        for spec in fields(cls):
            variable = f"UMRGEN_{spec.name.upper()}"
            if flags.get(spec.name) is not None:
                values[spec.name] = _convert(spec.name, spec.type, flags[spec.name])
            elif environment.get(variable):
                values[spec.name] = _convert(variable, spec.type, environment[variable])
        settings = cls(**values)
        for name, low, high in _RANGES:
            if not low <= getattr(settings, name) <= high:
                raise BadSettings(f"{name} must lie between {low} and {high}, not {getattr(settings, name)}")
        return settings


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65535),
    ("step_delay", 0, 3600),
    ("lease", 1, 3600),
    ("max_attempts", 1, 100),
    ("max_interruptions", 0, 1000),
    ("cancel_grace", 0, 3600),
    ("stall_after", 1, 86400),
    ("load_timeout", 1, 86400),
    ("engine_memory", 0, 1 << 24),
    ("session_running", 0, 100_000),
    ("session_queued", 0, 10_000_000),
    ("drain", 0, 86400),
    ("max_wait", 0, 600),
    ("cache", 0, 65536),
)


def _convert(name: str, kind: Any, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser()
    try:
        return kind(value)
    except ValueError:
        raise BadSettings(f"{name} must be of type {kind.__name__}, not {value!r}") from None


def setting_names() -> dict[str, tuple[str, Any]]:
    """Each setting's name with its help text and type, for the CLI and the documentation's test."""
    return {spec.name: (spec.metadata["help"], spec.type) for spec in fields(Settings)}
