"""Templates to HTML. Whatever a template inserts is escaped: names come from model files, and may be hostile."""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from layerserve.values import tensors
from layerserve.values.tables import number_text, percent_text

from layerserve_server.errors import safe_text
from layerserve_server.extensions.drawings.graph import shape
from layerserve_server.transport.http.exchange import Headers, HttpReply

FOLDER = Path(__file__).parent
#: Sources of what the page may load or run. Images are drawn by the server, as data:.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY: Headers = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
HTML = ("content-type", "text/html; charset=utf-8")
#: Maximum length of a name that is shown, in characters.
MAX_NAME = 80
#: Bytes by unit, largest first.
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Pages:
    """The templates."""

    def __init__(self, without: Container[str] = ()) -> None:
        """`without` has the services that the server lacks: the page has no links to them."""
        loader = FileSystemLoader(FOLDER / "templates")
        self._environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        filters = {
            "short": short,
            "when": when,
            "size": size,
            "number": number_text,
            "setting": setting,
            "shape": shape,
            "dtype": tensors.known_dtype,
            "duration": duration,
            "percent": percent_text,
        }
        self._environment.filters.update(filters)
        self._environment.globals |= {"link": link, "has": lambda service: service not in without}

    def html(self, template: str, **values: Any) -> HttpReply:
        """Returns a reply with a template's HTML."""
        text = self._environment.get_template(template).render(**values)
        return HttpReply(text.encode("utf-8", "replace"), (HTML, *SECURITY))


def link(part: str, **parameters: object) -> str:
    """Returns a part with its parameters, without those that are empty: "model?name=m"."""
    given = {key: str(value) for key, value in parameters.items() if value}
    return f"{part}?{urlencode(given, errors='replace')}" if given else part


def short(text: str, limit: int = MAX_NAME) -> str:
    """Returns a text as one line of limited length."""
    return safe_text(text, limit)


def when(time: Timestamp) -> str:
    """Returns a time, in UTC, to the second; empty if it isn't set."""
    if not time.seconds:
        return ""
    return datetime.fromtimestamp(time.seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Returns a number of bytes with its unit."""
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def setting(text: str) -> str:
    """Returns a setting of a trial; one that is no whole number with six digits."""
    try:
        return text if text.lstrip("-").isdecimal() else f"{float(text):.6g}"
    except ValueError:
        return text


def duration(seconds: float) -> str:
    """Returns a time in the unit that suits it."""
    if seconds < 0.9995:  # which three digits would round to 1e+03
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.1f} min"
