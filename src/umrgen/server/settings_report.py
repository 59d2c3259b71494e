"""The settings of a server as `umrgen config` reports them: the values in force, and the problems of a file."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from umrgen.server.setting_values import without_secret
from umrgen.server.settings import (
    RETIRED,
    BadSettings,
    Settings,
    given_values,
    read_file,
    settings_table,
    unknown_settings,
    without_password,
)

__all__ = ["in_force", "problems"]

_SECRETS = ("api_key", "metrics_token")


def in_force(environment: Mapping[str, str], file: Path | None) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each setting, its value without secrets, and its source. Raises BadSettings."""
    settings = Settings.load({}, environment, file)
    written, tables = ({}, {}) if file is None else read_file(file)
    sources = {setting.name: source for setting, source, _ in given_values({}, environment, written, file)}
    if settings.model and "engine" not in sources:
        sources["engine"] = "the setting model"
    if settings.engine_option and "engine_option" not in sources:
        sources["engine_option"] = f"[engine.{settings.engine}] in {file}" if tables else "the setting model"
    for setting in settings_table():
        name = setting.name
        yield name, _shown(name, getattr(settings, name)), sources.get(name, "default")


def _shown(name: str, value: Any) -> str:
    if name in _SECRETS:
        return f"… ({len(value)} characters)" if value else "none"
    if name == "ledger":
        return without_password(value)
    if name == "engine_option":
        return ", ".join(map(without_secret, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text or "none"


def problems(file: Path) -> Iterator[BadSettings]:
    """Yield each problem of a settings file. Without any, the settings are also checked against each other."""
    try:
        written, _ = read_file(file)
    except BadSettings as error:
        yield error
        return
    found = [*_unknown(written, file), *_invalid(written, file), *_retired(written, file)]
    yield from found
    if not found:
        yield from _contradictions(file)


def _unknown(written: Mapping[str, Any], file: Path) -> Iterator[BadSettings]:
    names = [setting.name for setting in settings_table()]
    for name in sorted(unknown_settings(written)):
        near = get_close_matches(name, names, 1)
        remedy = f"Did you mean {near[0]}?" if near else "See docs/settings.md, or: umrgen serve --help"
        yield BadSettings(f"{name} in {file} is not a setting", next=remedy)


def _invalid(written: Mapping[str, Any], file: Path) -> Iterator[BadSettings]:
    for setting, source, value in given_values({}, {}, written, file):
        try:
            setting.convert(value, source)
        except BadSettings as error:
            yield error


def _retired(written: Mapping[str, Any], file: Path) -> Iterator[BadSettings]:
    for name, advice in RETIRED.items():
        if name in written:
            yield BadSettings(f"{name} in {file} no longer has an effect", next=f"Remove it, and {advice}.")


def _contradictions(file: Path) -> Iterator[BadSettings]:
    try:
        _ = Settings.load({}, {}, file).signing
    except BadSettings as error:
        yield error
