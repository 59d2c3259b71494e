"""Checks of this machine: the folder for images, its disk, the journal, the profiles and the proxy."""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from umrgen.client.config import Profiles
from umrgen.client.failures import disk_reason
from umrgen.client.journal import Journal
from umrgen.client.proxies import proxy_for
from umrgen.errors import UmrgenError
from umrgen.text import printable

__all__ = ["Check", "Verdict", "check_folder", "check_proxy", "local_checks"]

Verdict = Literal["good", "bad", "note"]
LITTLE = 1 << 30
"""Bytes of free disk space below which a note is shown: some hundred images."""
TOO_LITTLE = 10 << 20
"""Bytes below which an image of 2048² pixels may not fit."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check, and a remedy when it is bad."""

    name: str
    verdict: Verdict
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))  # parts of it are from the server
        object.__setattr__(self, "remedy", printable(self.remedy))

    def as_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {"check": self.name, "verdict": self.verdict, "words": self.message, "remedy": self.remedy or None}


def local_checks(folder: Path) -> Iterator[Check]:
    """Yield the results for this machine; `folder` is that for images."""
    absolute = folder.absolute()
    found = check_folder(absolute)
    yield found
    if found.verdict == "good":
        yield check_disk(absolute)
    yield check_journal()
    yield from check_profiles()


def check_folder(folder: Path) -> Check:
    """Check that images can be written into `folder`."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "folder", "bad", f"{folder} is not writable: {disk_reason(error)}", "Choose another folder with -o."
        )
    return Check("folder", "good", f"{folder} is writable")


def check_disk(folder: Path) -> Check:
    """Check the free space of the folder's disk."""
    free = shutil.disk_usage(folder).free
    message = f"{free / 1e9:.1f} GB are free"
    if free >= LITTLE:
        return Check("disk", "good", message)
    verdict: Verdict = "note" if free >= TOO_LITTLE else "bad"
    return Check("disk", verdict, message, "Delete files, or choose a folder on another disk with -o.")


def check_journal() -> Check:
    """Check that the journal can be read and written; an unfinished job is a note."""
    try:
        journal = Journal()
        journal.check_writable()
        unfinished = len(journal.unfinished())
    except UmrgenError as error:
        return Check("journal", "bad", str(error), error.next)
    if unfinished:
        return Check(
            "journal",
            "note",
            f"{journal.path} has {unfinished} unfinished job{'s' if unfinished > 1 else ''}",
            "Run: umrgen resume",
        )
    return Check("journal", "good", f"{journal.path} is writable, and has no unfinished job")


def check_profiles() -> Iterator[Check]:
    """Yield a check of the file of profiles, if there is one."""
    try:
        profiles = Profiles()
        names = ", ".join(profiles.all())
        mode = stat.S_IMODE(profiles.path.stat().st_mode) if names else 0
    except UmrgenError as error:
        if error.code != "no_home":
            yield Check("profiles", "bad", str(error), error.next)
        return
    if names and os.name == "posix" and mode & 0o077:
        yield Check("profiles", "bad", f"other users can read {profiles.path}", f"Run: chmod 600 {profiles.path}")
    elif names:
        yield Check("profiles", "good", f"{profiles.path} has: {names}")


def check_proxy(base_url: str) -> Check:
    """Report the proxy for an address; the one for another scheme or host does not count."""
    proxy = proxy_for(base_url)
    if proxy is None:
        return Check("proxy", "good", "the server is reached without a proxy")
    return Check("proxy", "note", f"requests go through {proxy}", "To exclude the server from it, set NO_PROXY.")
