"""The standard variables by which OpenTelemetry's traces are turned on, read without its packages."""

from __future__ import annotations

from collections.abc import Mapping

#: Each of these turns on the export by OTLP.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def names(environment: Mapping[str, str]) -> list[str]:
    """Returns the exporters of traces that the environment names; none if traces are off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = environment.get("OTEL_TRACES_EXPORTER", "")
    if not named.strip():
        return ["otlp"] if any(environment.get(name) for name in _ENDPOINTS) else []
    return [name for name in map(str.strip, named.split(",")) if name not in ("", "none")]
