"""All problems of a request are found, the first one in the words with which the run would be refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from layergraph import Input, Model, layers
from layerserve_server.errors import InvalidRequestError, UnavailableError
from layerserve_server.training.checks.model_checks import check_here
from layerserve_server.training.checks.problems import MAX_PROBLEMS, REFUSALS, Notes
from layerserve_server.training.checks.request_checks import checked
from layerserve_server.training.request import DataArray, Role, RunRequest

INPUTS = [SimpleNamespace(name="x", shape=(None, 4), dtype="float32")]
OUTPUTS = [SimpleNamespace(name="y", shape=(None, 3), dtype="float32")]
DATA = (DataArray(Role.X, "x", "float32", (6, 4)), DataArray(Role.Y, "y", "float32", (6, 3)))
GOOD = RunRequest("m", 1, DATA, compile={"optimizer": "sgd", "loss": "mse"})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    x = Input((4,), name="x")
    file = tmp_path_factory.mktemp("model") / "model.keras"
    Model(x, layers.Dense(3, name="y")(x)).save(file)
    return file


def found(path, request, complete=True):
    notes = Notes()
    check_here(path, request, notes, complete=complete)
    return notes.texts


def refusal(path, request):
    with pytest.raises(REFUSALS) as raised:
        check_here(path, request)
    return str(raised.value)


def bad(**compiled):
    return replace(GOOD, compile={**GOOD.compile, **compiled})


@pytest.mark.parametrize(
    "request_",
    [
        bad(optimizer="addam"),
        bad(loss="msee"),
        bad(metrics=["acuracy"]),
        bad(loss_weights={"z": 1.0}),
        replace(GOOD, freeze=("nothing",)),
        replace(GOOD, callbacks=("Nothing",)),
        replace(GOOD, format="keras9"),
        replace(GOOD, publish="best", monitor="f1"),
        replace(GOOD, compile={}),
        replace(GOOD, data=(DATA[0], replace(DATA[1], shape=(6, 2)))),
        replace(GOOD, class_weight={9: 1.0}, data=(*DATA, DataArray(Role.SAMPLE_WEIGHT, "y", "float32", (6,)))),
    ],
)
def test_one_problem_is_told_once_in_the_words_of_the_refusal(path, request_):
    assert found(path, request_) == [refusal(path, request_)]


def test_all_settings_are_tried(path):
    request = replace(
        bad(optimizer="addam", metrics=["acuracy"]),
        freeze=("nothing", "y", "nowhere"),
        callbacks=("TerminateOnNaN", "Nothing", "Nobody"),
        format="keras9",
        data=(DATA[0], replace(DATA[1], shape=(6, 2))),
    )
    problems = found(path, request)
    assert problems[0] == refusal(path, request)
    wanted = ["nothing", "nowhere", "addam", "acuracy", "Nothing", "Nobody", "keras9", "got shape (6, 2)"]
    assert len(problems) == len(wanted)
    for text in wanted:
        assert any(text in problem for problem in problems), text


def test_without_the_loss_nothing_is_guessed_of_targets(path):
    request = replace(bad(loss="msee", optimizer="addam"), data=(DATA[0], replace(DATA[1], shape=(6, 2))))
    problems = found(path, request)
    assert len(problems) == 2
    assert not any("shape" in problem for problem in problems)


def test_logs_of_metrics_with_problems_are_not_unknown(path):
    request = replace(bad(metrics=["acuracy"]), publish="best", monitor="acuracy")
    assert found(path, request) == [refusal(path, request)]


def test_a_request_with_problems_of_its_data_has_its_settings_tried(path):
    request = replace(bad(optimizer="addam"), data=(replace(DATA[0], name="z"),))
    assert ["addam" in problem for problem in found(path, request, complete=False)] == [True]


def test_a_good_request_has_none(path):
    assert found(path, GOOD) == []


def check(request, notes):
    return checked(request, INPUTS, OUTPUTS, 1 << 30, lambda root, files: [], notes)


def test_problems_of_data_and_settings_are_noted_together():
    request = replace(GOOD, data=(replace(DATA[0], name="a"), replace(DATA[1], name="b")), epochs=10**9, batch_size=-1)
    notes = Notes()
    assert check(request, notes) is None
    for text in ("epochs", "batch_size", "unknown input 'a'", "unknown output 'b'"):
        assert any(text in problem for problem in notes.texts), text
    with pytest.raises(InvalidRequestError) as raised:
        checked(request, INPUTS, OUTPUTS, 1 << 30, lambda root, files: [])
    assert str(raised.value) == notes.texts[0]


def test_what_follows_from_another_problem_is_not_noted():
    notes = Notes()
    # A missing input isn't a problem besides that of its name.
    assert check(replace(GOOD, data=(replace(DATA[0], name="a"), DATA[1])), notes) is None
    assert len(notes.texts) == 1


def test_a_good_request_is_completed():
    notes = Notes()
    request = check(replace(GOOD, data=(replace(DATA[0], name=""), DATA[1])), notes)
    assert request is not None
    assert request.data[0].name == "x"
    assert not notes.texts


def test_only_refusals_are_noted():
    notes = Notes()
    with pytest.raises(UnavailableError), notes:
        raise UnavailableError("stopping")
    for number in range(2 * MAX_PROBLEMS):
        with notes:
            raise InvalidRequestError(str(number % (MAX_PROBLEMS + 5)))
    assert notes.texts == [str(number) for number in range(MAX_PROBLEMS)]
