"""Traces of calls and runs by OpenTelemetry."""
