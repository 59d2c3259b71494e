"""The target of an image: its kind, and checks of it before any request is sent."""

import os
import re
import secrets
import stat
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from umrgen.client.flows.download import partial_name
from umrgen.client.partial import target_exists, translate_disk_errors
from umrgen.durable import make_folder
from umrgen.errors import TargetUnusable
from umrgen.image_files import MEDIA_TYPES
from umrgen.paths import user_path

__all__ = [
    "STDOUT",
    "FileObject",
    "PathTarget",
    "Target",
    "check_target",
    "descriptor_of",
    "is_folder",
    "is_stream",
    "prepare_target",
    "target_file",
]


@runtime_checkable
class FileObject(Protocol):
    """An object that bytes are written to: a file that is open in binary mode, or an io.BytesIO."""

    def write(self, data: bytes, /) -> object: ...


PathTarget = str | os.PathLike[str] | None
Target = PathTarget | FileObject
"""Where an image is saved: a file, a folder, or a file object; None is the current folder."""

STDOUT = Path("/dev/stdout")
_DESCRIPTOR = re.compile(r"(?:/proc/(?:self|thread-self|\d+(?:/task/\d+)?)/fd|/dev/fd)/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_OTHER_IMAGES = frozenset(
    {
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".svg",
        ".ico",
        ".jp2",
        ".jxl",
        ".ppm",
        ".pnm",
        ".tga",
        ".psd",
        ".eps",
        ".pdf",
        ".apng",
    }
)
_MOST_LINKS = 40


def target_file(to: PathTarget, job_id: str) -> tuple[Path, bool]:
    """Return the file to write, and whether its extension may follow the image's type."""
    if to is None:
        return Path(f"{job_id}.png"), True
    path = user_path(to)
    if is_folder(path) or _ends_with_separator(to):
        return path / f"{job_id}.png", True
    return path, False


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder; False when its status cannot be read."""
    with suppress(OSError):
        return path.is_dir()
    return False


def _ends_with_separator(to: str | os.PathLike[str]) -> bool:
    return os.fspath(to).endswith((os.sep, os.altsep or os.sep))


def prepare_target(to: Target, *, overwrite: bool) -> None:
    """Raise TargetUnusable when `to` cannot be written; create the folder that `to` names with a slash at its end.

    The check creates a file in the folder: permissions, read-only file systems and long names have one result.
    """
    if isinstance(to, FileObject):
        _check_file_object(to)
        return
    if to is not None and "\0" in os.fspath(to):
        raise TargetUnusable(f"{to!r} is not a path: it has a NUL character", next="Choose another path with -o.")
    target, any_suffix = target_file(to, "umrgen")
    if to is not None and _ends_with_separator(to):
        with translate_disk_errors(target.parent):
            make_folder(target.parent)
    check_target(target, overwrite=overwrite or any_suffix)
    if is_stream(target):
        return
    if not any_suffix:
        _check_extension(target)
    with translate_disk_errors(target):
        with suppress(FileNotFoundError):
            os.lstat(target)  # the name itself may be too long
        probe = target.parent / partial_name(target.name, "probe", secrets.token_hex(8))
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        probe.unlink()


def _check_file_object(to: FileObject) -> None:
    """Raise TargetUnusable for a file that bytes cannot be written to, before there is a job."""
    try:
        to.write(b"")
    except (OSError, TypeError, ValueError) as error:  # closed, open for reading, or a text file
        reason = "is a text file" if isinstance(error, TypeError) else "cannot be written"
        raise TargetUnusable(
            f"the file object for the image {reason}", next='Open it with open(..., "wb"), or use io.BytesIO().'
        ) from None


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise TargetUnusable when `target` certainly cannot be written."""
    if is_stream(target):
        if descriptor_of(target) is None and not os.access(target, os.W_OK):
            raise TargetUnusable(f"{target} is not writable", next="Choose another path with -o.")
        return
    folder = target.parent
    if not is_folder(folder):
        raise TargetUnusable(f"the folder {folder} does not exist", next=f"Create it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TargetUnusable(f"the folder {folder} is not writable", next="Choose another path with -o.")
    if is_folder(target):
        raise TargetUnusable(f"{target} is a folder", next="Choose the name of a file in it.")
    if os.path.lexists(target) and not overwrite:
        raise target_exists(target)


def _check_extension(target: Path) -> None:
    suffix = target.suffix.lower()
    if suffix in _OTHER_IMAGES:
        raise TargetUnusable(f"an image cannot be saved as {suffix}", next="Choose a name with .png, .jpg or .webp.")
    if MEDIA_TYPES.get(suffix, "image/png") != "image/png" and find_spec("PIL") is None:
        raise TargetUnusable(
            f"an image cannot be converted to {suffix}: Pillow is not installed",
            next="Choose a name with .png, or: pip install pillow",
        )


def is_stream(path: Path) -> bool:
    """Return whether `path` is a device, a pipe, a socket or a descriptor: it is written to, never replaced."""
    if descriptor_of(path) is not None:
        return True
    with suppress(OSError):
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def descriptor_of(path: Path) -> int | None:
    """Return the descriptor of this process that `path` names, directly or by links: /dev/stdout, /proc/self/fd/1."""
    if path == STDOUT:  # also on Windows, which has no such file
        return 1
    name = Path.cwd() / path
    for _ in range(_MOST_LINKS):
        text = os.path.normpath(name)
        if text in _STANDARD:
            return _STANDARD[text]
        if match := _DESCRIPTOR.fullmatch(text):
            return int(match[1])
        try:
            name = name.parent / name.readlink()
        except (OSError, NotImplementedError):
            return None
    return None
