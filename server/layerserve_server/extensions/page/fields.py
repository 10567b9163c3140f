"""Parameters of the page's requests: in the address, or a form in the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import parse_qsl

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.transport.http.exchange import HttpRequest

#: Maximum size of a form, in bytes, and of its number of fields.
MAX_FORM_BYTES = 16 * 1024
MAX_FIELDS = 64
MAX_NUMBER = 2**63 - 1


class Fields:
    """The parameters of a request. Of one that is given twice the last counts."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    @classmethod
    def of_query(cls, request: HttpRequest) -> Fields:
        """Reads the address. Raises InvalidRequestError."""
        return cls(_parsed(request.query))

    @classmethod
    def of_form(cls, request: HttpRequest) -> Fields:
        """Reads the body. Raises InvalidRequestError."""
        if len(request.body) > MAX_FORM_BYTES:
            raise InvalidRequestError(f"the form: got {len(request.body)} bytes, expected at most {MAX_FORM_BYTES}")
        return cls(_parsed(request.body.decode("latin-1")))

    def text(self, name: str) -> str:
        """Returns a parameter; empty if it isn't given."""
        return self._values.get(name, "")

    def required(self, name: str) -> str:
        """Returns a parameter. Raises InvalidRequestError if it isn't given or empty."""
        return self.text(name) or _refuse(name, "nothing", "a value")

    def number(self, name: str) -> int:
        """Returns a whole number; 0 if it isn't given. Raises InvalidRequestError."""
        text = self.text(name).strip()
        if not text:
            return 0
        if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= MAX_NUMBER):
            _refuse(name, f"'{safe_text(text, 40)}'", "a whole number")
        return int(text)


def _refuse(name: str, got: str, expected: str) -> NoReturn:
    raise InvalidRequestError(f"{name}: got {got}, expected {expected}")


def _parsed(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise InvalidRequestError(f"the form: got more than {MAX_FIELDS} fields, expected fewer") from None
