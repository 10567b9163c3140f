"""Options: what each validator accepts, its normal form, and its error texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from layergraph.config import options
from layergraph.config.options import Configurable, Expected, option
from layergraph.errors import ConfigError, DataError

EDGE = 2**31
WORDS = options.one_of("same", "valid")
INTEGERS = options.list_of(options.integer)

TAKEN = [
    (options.integer, -EDGE, -EDGE),
    (options.integer, EDGE, EDGE),
    (options.integer, np.int16(3), 3),
    (options.positive_int, 1, 1),
    (options.nonnegative_int, 0, 0),
    (options.number, -2, -2.0),
    (options.number, np.float32(0.5), 0.5),
    (options.nonnegative, 0, 0.0),
    (options.fraction, 0, 0.0),
    (options.fraction, 1, 1.0),
    (options.boolean, np.True_, True),
    (options.boolean, 0, False),
    (options.boolean, 1, True),
    (options.text, "", ""),
    (WORDS, "valid", "valid"),
    (options.optional(options.text), None, None),
    (options.optional(options.text), "a", "a"),
    (INTEGERS, [], ()),
    (INTEGERS, (1, -2), (1, -2)),
    (options.one_or_list_of(options.text), "a", "a"),
    (options.one_or_list_of(options.text), ["a", "b"], ("a", "b")),
    (options.sizes(2), 3, (3, 3)),
    (options.sizes(2), [3, 4], (3, 4)),
    (options.sizes(1, options.nonnegative_int), [0], (0,)),
    (options.shape, [None, 0, 3], (None, 0, 3)),
    (options.shape, 4, (4,)),
    (options.shape, (), ()),
    (options.anything, [1], [1]),
]

REFUSED = [
    *((options.integer, value, "an integer") for value in (True, np.True_, 1.0, "1", EDGE + 1, -EDGE - 1, None)),
    *((options.positive_int, value, "a positive integer") for value in (0, -1, 1.5, EDGE + 1)),
    *((options.nonnegative_int, value, "an integer of at least 0") for value in (-1, 0.5, False)),
    *((options.number, value, "a number") for value in (True, np.False_, "1", None)),
    *((options.number, value, "a finite number") for value in (math.inf, -math.inf, math.nan, 10**400)),
    *((options.nonnegative, value, "a number of at least 0") for value in (-1e-9, -1)),
    *((options.fraction, value, "a number from 0 to 1") for value in (-1e-9, 1.001)),
    *((options.boolean, value, "true or false") for value in (2, -1, "true", 1.0, None)),
    (options.text, 3, "text"),
    *((WORDS, value, "'same' or 'valid'") for value in ("Same", None, 3)),
    (options.optional(options.text), 3, "text, or None"),
    (INTEGERS, 3, "a list"),
    (INTEGERS, [1, "a"], "a list in which each item is an integer"),
    (options.one_or_list_of(options.text), 3, "text"),
    (options.one_or_list_of(options.text), ["a", 3], "a list in which each item is text"),
    (options.sizes(2), 0, "a positive integer, or 2 of them"),
    (options.sizes(2), [3, 0], "a positive integer, or 2 of them"),
    (options.sizes(2), [3], "one integer or 2 of them"),
    (options.sizes(2), [3, 3, 3], "one integer or 2 of them"),
    *((options.shape, value, "a shape such as [null, 28, 28]") for value in (True, "ab", None, [-1], [1.5])),
]


@pytest.mark.parametrize(("validate", "value", "result"), TAKEN)
def test_a_value_takes_its_normal_form(validate: Any, value: Any, result: Any) -> None:
    got = validate(value)
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(("validate", "value", "text"), REFUSED)
def test_what_an_option_does_not_take_is_told_with_what_it_takes(validate: Any, value: Any, text: str) -> None:
    with pytest.raises(Expected) as refused:
        validate(value)
    assert str(refused.value) == text


class Below(Configurable):
    """A few options for a class to inherit."""

    size: int = option(options.positive_int)
    name: str = option(options.text, default="below", kw_only=True)


class Above(Below):
    """Own options come after inherited positional ones and before keyword-only ones."""

    rate: float = option(options.fraction, default=0.5)
    inner: Any = option(options.anything, default=None)


class Renamed(Below):
    """A class with another name in configs."""

    serialized_as = "Below"


def test_options_are_given_by_position_or_by_name() -> None:
    made = Above(3, 0.25, name="n")
    assert (made.size, made.rate, made.inner, made.name) == (3, 0.25, None, "n")
    assert Above(size=3).get_config() == {"size": 3, "rate": 0.5, "inner": None, "name": "below"}


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1, 0.5, None, "n"), {}, "Above: got 4 positional arguments, expected at most 3: ['size', 'rate', 'inner']"),
        ((), {}, "Above: option 'size' is missing"),
        ((1,), {"size": 2}, "Above: option 'size' is given twice"),
        ((1,), {"raet": 2}, "Above: unknown option 'raet'; did you mean 'rate'?"),
        ((0,), {}, "Above: option 'size' is 0, expected a positive integer"),
        ((["x" * 100],), {}, f"Above: option 'size' is ['{'x' * 75}..., expected a positive integer"),
    ],
)
def test_options_that_do_not_fit_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Above(*args, **kwargs)
    assert str(refused.value) == text


def test_another_error_of_a_validator_keeps_its_kind() -> None:
    def refuse(value: Any) -> Any:
        raise DataError("no such table")

    class Refusing(Configurable):
        table: Any = option(refuse)

    with pytest.raises(DataError, match=r"^Refusing: option 'table': no such table$"):
        Refusing(1)


def test_a_config_holds_what_json_can() -> None:
    made = Above(1, inner={"a": (Renamed(2), math.sqrt)})
    below = {"class_name": "Below", "config": {"size": 2, "name": "below"}}
    assert made.get_config()["inner"] == {"a": [below, "sqrt"]}
    assert options.serialized(made)["class_name"] == "Above"
    again = Above.from_config(made.get_config())
    assert again.get_config() == made.get_config()


TABLE: dict[str, type[Any]] = {"Below": Below, "Plain": type("Plain", (Configurable,), {})}


def test_names_objects_and_classes_are_resolved() -> None:
    made = Below(1)
    assert options.resolve("thing", made, TABLE) is made
    assert type(options.resolve("thing", TABLE["Plain"], TABLE)) is TABLE["Plain"]
    assert type(options.resolve("thing", "plain", TABLE, {"plain": "Plain"})) is TABLE["Plain"]
    for config in ({}, {"config": None}, {"config": {}}):
        assert type(options.resolve("thing", {"class_name": "Plain", **config}, TABLE)) is TABLE["Plain"]
    found = options.resolve("thing", {"module": "os", "class_name": "Below", "config": {"size": 7}}, TABLE)
    assert found.size == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"class_name": "Below", "config": [1]}, "config of thing 'Below' is [1], expected an object"),
        (3, "thing is 3, expected a name, an instance, or an object with class_name and config"),
        (
            {"class": "Below"},
            "thing is {'class': 'Below'}, expected a name, an instance, or an object with class_name and",
        ),
        ({"class_name": 3}, "thing is {'class_name': 3}, expected a name"),
        ("Belo", "unknown thing 'Belo'; did you mean 'Below'?"),
        (int, "thing is <class 'int'>, expected a name"),
    ],
)
def test_what_is_in_no_table_is_refused(value: Any, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        options.resolve("thing", value, TABLE, {"plain": "Plain"})
    assert str(refused.value).startswith(text)


def test_values_in_errors_are_short() -> None:
    assert options.short_repr("x" * 78) == repr("x" * 78)
    assert options.short_repr("x" * 79) == "'" + "x" * 76 + "..."
