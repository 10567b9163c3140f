"""Environment variables with the prefix LAYERSERVE_ that are no settings. Kubernetes sets some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from layerserve.cli import variables
from layerserve.cli.variables import PREFIX, of_kubernetes

__all__ = ["PREFIX", "names", "of_kubernetes", "unknown"]


def names(settings: Iterable[str]) -> set[str]:
    """Returns the variables of settings."""
    return {PREFIX + name.upper() for name in settings}


def unknown(environment: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """Returns the variables with the prefix that are neither settings nor the CLI's: most likely misspelled ones."""
    return variables.unknown(environment, names(settings))
