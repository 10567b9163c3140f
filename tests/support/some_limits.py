"""Limits of transports for tests: small ones, and else the settings' defaults."""

from dataclasses import fields
from typing import Any

from layerserve_server.settings.fields import SettingFields
from layerserve_server.transport.perimeter.limits import Limits


def some_limits(
    max_message_bytes: int = 1 << 20, rpc_threads: int = 1, max_streams: int = 4, max_calls: int = 8, **others: Any
) -> Limits:
    """Returns limits, of which `others` are by name."""
    usual = {field.name: SettingFields.model_fields[field.name].default for field in fields(Limits)}
    own = {"max_message_bytes": max_message_bytes, "rpc_threads": rpc_threads, "max_streams": max_streams}
    return Limits(**{**usual, "max_buffered_bytes": 1 << 30, **own, "max_calls": max_calls, **others})
