"""Where settings are read: flags, environment variables and a TOML file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from layerserve.cli.variables import PREFIX, unknown
from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from layerserve_server.errors import error_text
from layerserve_server.extensions.installed import Settings, variables
from layerserve_server.settings.flags import read_flags, unset
from layerserve_server.settings.settings import Settings as CoreSettings
from layerserve_server.settings.settings import own_variables, spellings
from layerserve_server.toml_text import TomlError, parse_toml, toml_value


class SettingsError(Exception):
    """Settings are invalid. The text has a line per setting: its three spellings, the value got and that expected."""


def read_settings(argv: Sequence[str]) -> CoreSettings:
    """Reads the settings from command-line arguments, environment and file.

    Raises SettingsError if a value is invalid or a variable unknown, and SystemExit (as argparse does) for an unknown
    flag and for `--help`.
    """
    flags = read_flags(argv, Settings.model_fields)
    check_names(os.environ)
    path = config_path(argv, os.environ)
    values = read_file(path) if path else {}

    def sources(
        cls: type[CoreSettings],
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        of_flags, of_file = (InitSettingsSource(settings_cls, found) for found in (flags, values))
        return of_flags, own_variables(env_settings), of_file

    try:
        found = type("Command", (Settings,), {"settings_customise_sources": classmethod(sources)})()
        return Settings.model_construct(_fields_set=set(found.model_fields_set), **dict(found))
    except ValidationError as error:
        raise SettingsError("\n".join(describe(entry) for entry in error.errors())) from error


def check_names(environment: Mapping[str, str]) -> None:
    """Raises SettingsError if a variable has the prefix of settings but isn't one."""
    if wrong := unknown(environment, variables()):
        hints = [f"environment: unknown setting '{name}'{near(name, sorted(variables()))}" for name in wrong]
        raise SettingsError("\n".join(hints))


def near(name: str, names: Iterable[str]) -> str:
    """Returns a hint with the closest valid name, for an error text; empty if none is close."""
    found = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def config_path(argv: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """Returns the path of the settings file from flags or environment, before the other settings are read."""
    named = spelled("config", argv, environment)
    return Path(named).expanduser() if named else None


def json_logs(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether logs are JSON. Doesn't need valid settings, so that errors in them can be logged as JSON."""
    log_format = spelled("log_format", argv, environment)
    path = config_path(argv, environment)
    if log_format is None and path is not None:
        with suppress(SettingsError):
            log_format = read_file(path).get("log_format")
    return log_format == "json"


def spelled(name: str, argv: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Returns the unparsed value of a setting from flags or environment; None if neither has it."""
    flag = "--" + name.replace("_", "-")
    for index, argument in enumerate(argv):
        if argument == flag and index + 1 < len(argv):
            return argv[index + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return environment.get(PREFIX + name.upper()) or None


def read_file(path: Path) -> dict[str, Any]:
    """Reads a TOML file of settings. Raises SettingsError if it can't be read or has unknown names."""
    try:
        values: dict[str, Any] = parse_toml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, TomlError) as error:
        raise SettingsError(f"settings file {path}: {error_text(error)}") from error
    names = set(Settings.model_fields) - {"config", "check_config"}
    for key in values:
        if key not in names:
            raise SettingsError(f"settings file {path}: unknown setting '{key}'{near(key, names)}")
    return values


def describe(entry: Mapping[str, Any]) -> str:
    """Returns the error line of an invalid setting, with all spellings, since the user may have used any of them."""
    if not entry["loc"]:
        return str(entry["msg"]).removeprefix("Value error, ")
    expected = re.sub("^(Input should be |Value error, )|, unable to parse.*", "", str(entry["msg"]))
    return f"{spellings(str(entry['loc'][0]))}: got {entry['input']!r}, expected {expected}"


def in_force(settings: CoreSettings) -> str:
    """Returns the settings as TOML with their descriptions, as printed by `--check-config`."""
    lines = []
    for name, field in Settings.model_fields.items():
        if name in ("config", "check_config"):
            continue
        value = getattr(settings, name)
        lines.append(f"# {field.description}" + (f" Default: {unset(field)}." if value is None else ""))
        lines.append(f"# {name} =" if value is None else f"{name} = {toml_value(value)}")
    return "\n".join(lines)
