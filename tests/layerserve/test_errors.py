from __future__ import annotations

import pickle
import re

import grpc
import pytest
from layerserve import errors
from layerserve.errors import LayerserveError

ALL = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, LayerserveError)]


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_status_has_an_error(status):
    error = errors.from_status(status, "why", [])
    assert type(error) is errors.STATUSES[status]
    assert (error.status, error.details, str(error), error.code) == (status, "why", "why", error.code)


@pytest.mark.parametrize("word", errors.CODES)
def test_the_word_in_the_metadata_chooses_the_finer_error(word):
    cls = errors.CODES[word]
    error = errors.from_status(cls.status, "why", [(errors.REASON_KEY, word)])
    assert type(error) is cls
    assert error.code == word


def test_an_unknown_word_gives_the_error_of_the_status_and_is_kept():
    error = errors.from_status(grpc.StatusCode.NOT_FOUND, "why", [(errors.REASON_KEY, "tea_not_found")])
    assert type(error) is errors.NotFound
    assert error.code == "tea_not_found"


def test_a_word_of_another_status_does_not_choose():
    error = errors.from_status(grpc.StatusCode.INTERNAL, "why", [(errors.REASON_KEY, "model_not_found")])
    assert type(error) is errors.Internal


@pytest.mark.parametrize("cls", [*errors.STATUSES.values(), *errors.CODES.values()])
def test_what_a_server_sends_gives_an_equal_error(cls):
    sent = cls("why")
    received = errors.from_status(sent.status, sent.details, errors.trailing_metadata(sent))
    assert (type(received), received.code, str(received)) == (cls, sent.code, "why")


def test_missing_details_read_as_the_status():
    assert str(errors.from_status(grpc.StatusCode.UNAVAILABLE, None)) == "UNAVAILABLE"


@pytest.mark.parametrize(("sent", "seconds"), [("700", 0.7), ("-1", None), ("soon", None), (None, None)])
def test_overload_says_when_to_try_again(sent, seconds):
    metadata = [] if sent is None else [(errors.PUSHBACK_KEY, sent)]
    error = errors.from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", metadata)
    assert isinstance(error, errors.Overloaded)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("SERVER: Received message larger than max (2880036 vs. 200000)", []),  # of gRPC's core
        (
            "the message has 2880036 bytes, expected at most 200000 (setting 'max_message_bytes'); send fewer rows",
            [(errors.REASON_KEY, "too_large"), (errors.PUSHBACK_KEY, "-1")],
        ),
    ],
)
def test_a_message_that_is_too_large_is_no_overload(text, metadata):
    error = errors.from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, text, metadata)
    assert (type(error), error.code) == (errors.TooLarge, "too_large")
    assert str(error).startswith("the message has 2880036 bytes, expected at most 200000 (setting 'max_message_bytes')")


def test_a_reply_above_a_limit_of_the_client_is_not_said_to_be_the_servers():
    text = "CLIENT: Received message larger than max (9 vs. 8)"
    error = errors.from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, text, [])
    assert (type(error), str(error)) == (errors.Overloaded, text)


def test_internal_errors_carry_the_id_under_which_they_are_logged():
    error = errors.from_status(grpc.StatusCode.INTERNAL, "oops", [(errors.CORRELATION_KEY, "7f"), ("k-bin", b"\x01")])
    assert isinstance(error, errors.Internal)
    assert error.correlation_id == "7f"
    assert errors.Internal("oops").correlation_id == ""


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidTensor, ValueError),
        (errors.ModelNotFound, LookupError),
        (errors.LayerNotFound, KeyError),
        (errors.DeadlineExceeded, TimeoutError),
        (errors.Unavailable, ConnectionError),
    ],
)
def test_errors_are_also_the_builtin_that_means_the_same(cls, builtin):
    with pytest.raises(builtin) as caught:
        raise cls("why")
    assert str(caught.value) == "why"  # a KeyError alone would put it in quotes


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelNotFound("why", metadata={"a": "b"}),
        errors.InvalidTensor(name="x", got="1", expected="2"),
        errors.TrainingFailed("r1", "loss is NaN", 2, 3),
        errors.TrainingCancelled("r1", 4),
        errors.DeadlineExceeded("late"),
    ],
)
def test_errors_can_be_pickled(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_an_invalid_tensor_has_its_name_if_it_came_with_one():
    assert str(errors.InvalidTensor(name="x", got="1", expected="2")) == "tensor 'x': got 1, expected 2"
    assert str(errors.InvalidTensor(got="1", expected="2")) == "tensor without a name: got 1, expected 2"


def test_a_failed_run_says_where():
    error = errors.TrainingFailed("r1", "loss is NaN", 2, 3)
    assert str(error) == "training run 'r1' failed in epoch 2, step 3: loss is NaN"
    assert str(errors.TrainingFailed("r1", "no memory")) == "training run 'r1' failed: no memory"
    assert str(errors.TrainingCancelled("r1")) == "training run 'r1' was cancelled"


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else ""
    real = {cls.__name__: cls.__mro__[1].__name__ if cls is not LayerserveError else "" for cls in ALL}
    assert drawn == real
