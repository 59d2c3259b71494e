"""The names of the files of reference images."""

__all__ = ["archive_name", "upload_name"]

_WITH_ARCHIVE = "_c2pa.png"


def upload_name(random: str, *, has_archive: bool) -> str:
    """Return the name of a reference image; by it is known whether an archive of its C2PA manifest is stored."""
    return f"ref_{random}{_WITH_ARCHIVE if has_archive else '.png'}"


def archive_name(name: str) -> str | None:
    """Return the name of the archive that belongs to a reference image; None for one without it."""
    return name.removesuffix(".png") + ".c2pa" if name.endswith(_WITH_ARCHIVE) else None
