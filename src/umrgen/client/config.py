"""The server and the API key in force: by arguments, the environment, or a profile of `umrgen login`.

The profiles are in one file in the user's configuration folder, which only this user can read.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umrgen.client.address import Server
from umrgen.client.failures import disk_reason
from umrgen.durable import make_folder, make_private, sync
from umrgen.errors import UmrgenError
from umrgen.file_locks import lock
from umrgen.paths import config_home

__all__ = [
    "DEFAULT_PROFILE",
    "Profile",
    "Profiles",
    "ServerChoice",
    "check_profile_name",
    "choose_server",
    "configured_server",
]

DEFAULT_PROFILE = "default"
"""The profile in force when none is named."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Profile:
    """The address of a server and a key for it, under a name."""

    name: str
    base_url: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """The base URL and the API key in force, each with its source; both are None when nothing sets them."""

    base_url: str | None
    url_source: str
    key: str | None = field(repr=False)
    key_source: str

    def server(self) -> Server:
        """Return the server. Raises UmrgenError without a valid address."""
        if not self.base_url:
            raise UmrgenError(
                "no server is configured",
                code="no_server",
                next="Run `umrgen login`, or set UMRGEN_BASE_URL to your server's address, or start a server with "
                "`umrgen serve`.",
            )
        return Server(self.base_url, self.key)


NOT_SET = "not set"


def configured_server(base_url: str | None = None, api_key: str | None = None) -> Server:
    """Return the server by the arguments, or by UMRGEN_BASE_URL and UMRGEN_API_KEY, or by a profile.

    Raises UmrgenError.
    """
    return choose_server(base_url, api_key).server()


def choose_server(
    base_url: str | None = None, api_key: str | None = None, *, profile: str | None = None
) -> ServerChoice:
    """Return the address and the key in force: arguments take precedence over the environment, and it over a profile.

    `profile` is an argument too: with it, the environment does not count. The key of a profile is used only with
    the profile's own address. Raises UmrgenError for a profile that does not exist, and for a file of profiles that
    cannot be read when it is needed.
    """
    if profile is not None:
        chosen = Profiles().get(profile)
        source = f"profile {profile}"
        return ServerChoice(chosen.base_url, source, api_key or chosen.key, "argument" if api_key else source)
    url, url_source = _first(base_url, "UMRGEN_BASE_URL")
    key, key_source = _first(api_key, "UMRGEN_API_KEY")
    if url and key:
        return ServerChoice(url, url_source, key, key_source)
    selected = _selected(required=not url)
    if selected is None:
        return ServerChoice(url, url_source, key, key_source)
    if not url:
        url, url_source = selected.base_url, f"profile {selected.name}"
    if not key and Server(url).base_url == selected.base_url:
        key, key_source = selected.key, f"profile {selected.name}"
    return ServerChoice(url, url_source, key, key_source)


def _first(argument: str | None, variable: str) -> tuple[str | None, str]:
    """Return the value of the argument or the environment variable, and which of them it is."""
    if argument:
        return argument, "argument"
    value = os.environ.get(variable)
    return (value, variable) if value else (None, NOT_SET)


def _selected(*, required: bool) -> Profile | None:
    """Return the profile of UMRGEN_PROFILE, or else the default one; None without one.

    An unusable file and an unknown name are errors only when the profile is `required`: it has to have the address.
    """
    name = os.environ.get("UMRGEN_PROFILE")
    try:
        profiles = Profiles()
        return profiles.get(name) if name else profiles.all().get(DEFAULT_PROFILE)
    except UmrgenError as error:
        if required and error.code != "no_home":
            raise
        return None


def check_profile_name(name: str) -> None:
    """Raise UmrgenError for a text that is no name of a profile."""
    if not _NAME.fullmatch(name):
        raise UmrgenError(
            f"{name!r} is not a name for a profile",
            code="bad_profile",
            next="Use letters, digits, dots, hyphens and underscores, for example: work",
        )


class Profiles:
    """The file of profiles. Any number of processes may change it at the same time."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or config_home() / "profiles.json"

    def all(self) -> dict[str, Profile]:
        """Return the profiles by name; none without a file. Raises UmrgenError for an unusable file."""
        try:
            data = json.loads(self.path.read_bytes())
            return {name: _profile(name, entry) for name, entry in data["profiles"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._unusable(f"cannot be read: {disk_reason(error)}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._unusable("is damaged") from None

    def get(self, name: str) -> Profile:
        """Return a profile. Raises UmrgenError when it does not exist."""
        profiles = self.all()
        if name not in profiles:
            known = f"; there are: {', '.join(sorted(profiles))}" if profiles else ""
            raise UmrgenError(
                f"there is no profile {name!r}{known}",
                code="no_profile",
                next=f"Make it: umrgen login --profile {name}",
            )
        return profiles[name]

    def save(self, profile: Profile) -> None:
        """Store a profile, replacing an earlier one of the same name. Raises UmrgenError."""
        check_profile_name(profile.name)
        with self._changing() as profiles:
            profiles[profile.name] = profile

    def remove(self, name: str) -> Profile:
        """Remove a profile and return it. Raises UmrgenError when it does not exist."""
        with self._changing() as profiles:
            removed = self.get(name)
            del profiles[name]
        return removed

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Profile]]:
        """Provide the profiles under a lock; write them after that, in one step."""
        try:
            make_folder(self.path.parent, mode=0o700)
            with self.path.with_suffix(".lock").open("ab") as guard:
                lock(guard, wait=True)
                profiles = self.all()
                yield profiles
                self._write(profiles)
        except OSError as error:
            raise self._unusable(f"cannot be written: {disk_reason(error)}") from None

    def _write(self, profiles: dict[str, Profile]) -> None:
        entries = {name: {"base_url": each.base_url, "api_key": each.key} for name, each in sorted(profiles.items())}
        target = self.path.resolve()  # a link to a file elsewhere stays a link
        copy = target.with_name(f"{target.name}.{os.urandom(8).hex()}")
        make_private(copy)
        try:
            copy.write_text(json.dumps({"profiles": entries}, indent=2) + "\n")
            sync(copy)
            os.replace(copy, target)
            sync(target)
        finally:
            with suppress(FileNotFoundError):
                copy.unlink()

    def _unusable(self, reason: str) -> UmrgenError:
        return UmrgenError(
            f"the file of profiles {self.path} {reason}",
            code="profiles_unusable",
            next="Correct or remove the file, then run `umrgen login` again.",
        )


def _profile(name: str, entry: Any) -> Profile:
    url, key = entry["base_url"], entry.get("api_key")
    if not isinstance(url, str) or not isinstance(key, str | None):
        raise TypeError
    return Profile(name, url, key)
