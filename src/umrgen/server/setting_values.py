"""The rules for the values of single settings: each normalizes a value, or raises BadSettings with its source."""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from umrgen.errors import UmrgenError

__all__ = ["NORMALIZERS", "BadSettings", "ledger_setting", "without_password", "without_secret"]


_SECRET_OPTION = re.compile(r"(?i)([^=]*(?:key|token|secret|password)[^=]*)=.*", re.DOTALL)


class BadSettings(UmrgenError):
    """The server cannot start with these settings."""

    code = "bad_settings"


def _networks(value: tuple[str, ...], source: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(part, strict=False)) for part in value)
    except ValueError as error:
        raise BadSettings(f"{source} must name addresses or networks: {error}") from None


def _hosts(value: tuple[str, ...], source: str) -> tuple[str, ...]:
    for part in value:
        if re.search(r"[/\s]|:\d+$", part):
            raise BadSettings(f"{source} must be host names without scheme and port; got {part!r}")
    return tuple(part.lower().rstrip(".") for part in value)


def _origins(value: tuple[str, ...], source: str) -> tuple[str, ...]:
    origins = tuple(part.lower().rstrip("/") for part in value)
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise BadSettings(f"{source} must be origins such as https://studio.example.org; got {origin!r}")
    return origins


def _prefix(value: str, source: str) -> str:
    if value and (not value.startswith("/") or value.endswith("/")):
        raise BadSettings(f"{source} must begin with a slash and end without one, like /umrgen; got {value!r}")
    return value


def _secret(value: str, source: str) -> str:
    if value and len(value) < 20:
        raise BadSettings(f"{source} must have 20 characters or more, so that it cannot be guessed")
    return value


def _authority(value: str, source: str) -> str:
    if value and not re.fullmatch(r"https?://[!-~]+", value):
        raise BadSettings(f"{source} must be a URL such as http://timestamp.example.org; got {value!r}")
    return value


def ledger_setting(value: str, source: str) -> str:
    """Return the value of a setting `ledger`. Raises BadSettings, without the value if that may have a password."""
    if re.match(r"postgres(ql)?:", value):
        return _database_url(value, source)
    if not re.fullmatch(r"memory|sqlite(:.+)?", value, re.DOTALL):
        shown = f"; got {value!r}" if "://" not in value and "@" not in value else ""
        raise BadSettings(f"{source} must be sqlite, sqlite:FILE, postgresql://… or memory{shown}")
    return value


def _database_url(value: str, source: str) -> str:
    """Return the URL with the scheme `postgresql`. Raises BadSettings without quoting it."""
    address = re.fullmatch(r"postgres(?:ql)?://([^/?]*(?:/[^@]*)?(?:\?.*)?)", value)
    if address is None or not value.isprintable():
        raise BadSettings(
            f"{source} is not a PostgreSQL URL",
            next="Write postgresql://USER@HOST:PORT/DATABASE, with %XX for special characters of a password.",
        )
    return f"postgresql://{address[1]}"


def without_password(url: str) -> str:
    """Return a database's URL without its password."""
    url = re.sub(r"^(\w+://[^:@/?]*):.*@", r"\1@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1…", url)


def without_secret(option: str) -> str:
    """Return an option NAME=VALUE as it may be shown: without a key, token or password, and without that of a URL."""
    return re.sub(r"//[^/@\s]*@", "//…@", _SECRET_OPTION.sub(r"\1=…", option))


def _blobs(value: str, source: str) -> str:
    if value.startswith("s3:"):
        return _bucket(value, source)
    if not re.fullmatch(r"memory|local(:.+)?", value, re.DOTALL):
        raise BadSettings(f"{source} must be local, local:FOLDER, s3://BUCKET/PREFIX or memory; got {value!r}")
    return value


def _bucket(value: str, source: str) -> str:
    """Return the URL of a bucket without a slash at its end. Raises BadSettings, which does not quote credentials."""
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9_.=-]*)*/?", value):
        shown = "" if "@" in value else f"; got {value!r}"
        raise BadSettings(
            f"{source} must be s3://BUCKET/PREFIX, with letters, digits, _ and - in the prefix{shown}",
            next="Credentials belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    return value.rstrip("/")


def _endpoint(value: str, source: str) -> str:
    if value and not re.fullmatch(r"https?://[^/\s@?#]+/?", value):
        shown = "" if "@" in value else f"; got {value!r}"
        raise BadSettings(f"{source} must be a URL such as https://s3.example.org, without a path{shown}")
    return value.rstrip("/")


def _options(value: tuple[str, ...], source: str) -> tuple[str, ...]:
    for option in value:
        if not re.match(r"\s*[A-Za-z_][A-Za-z0-9_-]*\s*=", option):
            raise BadSettings(f"{source} must be options as NAME=VALUE; got {option!r}")
    return value


def _ray_address(value: str, source: str) -> str:
    if value != "auto" and not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}", value, re.ASCII):
        raise BadSettings(
            f"{source} must be auto, or the HOST:PORT of the head of a Ray cluster; got {value!r}",
            next="For a cluster elsewhere, start a node on this machine: ray start --address=HOST:6379 --num-cpus=0",
        )
    return value


def _resources(value: tuple[str, ...], source: str) -> tuple[str, ...]:
    parts = tuple("".join(part.split()) for part in value)
    for part in parts:
        name, _, number = part.partition("=")
        if not re.fullmatch(r"[A-Za-z]\w*=(\d{1,6}|\d{0,6}\.\d{1,4})", part, re.ASCII) or not float(number):
            raise BadSettings(f"{source} must be resources such as GPU=1 or CPU=0.5; got {part!r}")
        if float(number) > 1 and float(number) % 1:
            raise BadSettings(
                f"{source}: Ray divides one {name}, not several: write a part of 1, or a whole number; got {part!r}"
            )
    if not parts or len({part.partition("=")[0] for part in parts}) < len(parts):
        raise BadSettings(f"{source} must name one or more resources, each once; got {','.join(parts)!r}")
    return parts


NORMALIZERS: Mapping[str, Any] = {
    "blobs": _blobs,
    "engine_option": _options,
    "ledger": ledger_setting,
    "s3_endpoint": _endpoint,
    "trusted_proxies": _networks,
    "allowed_hosts": _hosts,
    "allowed_origins": _origins,
    "prefix": _prefix,
    "ray_address": _ray_address,
    "ray_resources": _resources,
    "metrics_token": _secret,
    "signing_authority": _authority,
}
"""Functions that normalize a setting's value, or raise BadSettings, by the setting's name."""
