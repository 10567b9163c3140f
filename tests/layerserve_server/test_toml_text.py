"""What is written as TOML is read as the same value."""

from datetime import datetime, timezone

import pytest
from layerserve_server.toml_text import parse_toml, toml_value

TEXT = 'a "b" \\ \n\x7f é 😀'
VALUES = [True, False, -3, 1e16, 0.1, "", TEXT, ["a", "b"], [], datetime(2027, 1, 1, tzinfo=timezone.utc)]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_read_as_it_was_written(value):
    assert parse_toml(f"x = {toml_value(value)}") == {"x": value}
