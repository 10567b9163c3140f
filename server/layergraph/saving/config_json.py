"""Configs as JSON that Keras and this package read again."""

from __future__ import annotations

from typing import Any

from layergraph.archive.json_text import JsonError, config_text
from layergraph.errors import ConfigError


def config_json(config: Any) -> str:
    """Returns a model's config as JSON. Raises ConfigError where `config_text` raises JsonError."""
    try:
        return config_text(config)
    except JsonError as wrong:
        raise ConfigError(f"save: the model's config {wrong}") from None
