"""The tables of options: they and the contract name the same fields, and all that is made from them has all options."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
from layerserve import AsyncClient, Client, methods
from layerserve.cli import main
from layerserve.cli.flags import flag_name
from layerserve.errors import InvalidArgument
from layerserve.options.keywords import EvaluateKeywords, TrainKeywords
from layerserve.options.kinds import (
    Flag,
    Json,
    Metadata,
    Number,
    Patterns,
    Publication,
    Text,
    Whole,
    Words,
    splits_problem,
)
from layerserve.options.online import ONLINE
from layerserve.options.option import fill
from layerserve.options.training import EVALUATE, TRAIN
from layerserve.v1 import training_pb2 as pb
from layerserve.v1.sweeps_pb2 import CreateSweepResponse

#: What a specification says that is no option: the model, and the arrays.
REST = {"model", "data"}
#: A value for each kind of option that is no default, as a specification gives it back.
VALUES = {
    **{"epochs": 2, "batch_size": 3, "steps_per_epoch": 2**40, "validation_split": 0.25, "validation_batch_size": 4},
    **{"class_weight": '{"0": 2.0}', "shuffle": False, "seed": 0, "freeze": ("a*",), "unfreeze": ("ab", "ac")},
    **{"callbacks": '["TerminateOnNaN"]', "publish": "best", "monitor": "loss", "monitor_mode": "max"},
    **{"publish_if_improved": "accuracy", "publish_label": "new", "format": "keras2", "priority": -1, "workers": 2},
    **{"on_nan": "continue", "checkpoint_seconds": 0.0, "description": "why", "optimizer": '"sgd"', "loss": '"mse"'},
    **{"loss_weights": "[0.5]", "metrics": '["mae"]', "weighted_metrics": "[]", "max_seconds": 1.5},
    **{"metadata": {"a": "1"}, "idempotency_key": "k", "expected_base_version": 2**40, "on_conflict": "rebase"},
    **{"max_memory_bytes": 2**40, "max_disk_bytes": 1, "cache_frozen": "off", "lora": '{"rank": 8}'},
    **{"gradient_accumulation_steps": 4, "precision": "auto"},
    **{"splits": '{"a": 0.5, "b": 0.25}', "split": "a", "validate_on": "b", "split_seed": 0},
    **{
        "checkpoint_every_epochs": 2,
        "checkpoint_every_steps": 2**40,
        "keep_checkpoints": 3,
        "keep_best_checkpoints": 4,
    },
    **{"from_checkpoint": "r1/e2"},
}
GIVEN = {
    **VALUES,
    **{"class_weight": {0: 2.0}, "callbacks": "TerminateOnNaN", "optimizer": "sgd", "loss": "mse"},
    **{"loss_weights": [0.5], "metrics": ["mae"], "weighted_metrics": [], "lora": 8},
    **{"splits": {"a": 0.5, "b": 0.25}},
}


def leaves(message, inside="") -> dict:
    """The fields of a specification by their paths, those of messages in it included."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        path = inside + field.name
        if field.message_type and not field.is_repeated and path not in REST:
            found |= leaves(field.message_type._concrete_class, path + ".")
        elif path not in REST:
            found[path] = field
    return found


@pytest.mark.parametrize(
    ("spec", "options", "only_in_the_contract"),
    [
        (pb.TrainSpec, TRAIN, set()),
        (pb.EvaluateSpec, EVALUATE, {"compile.optimizer", "view.validation", "sample_losses"}),
    ],
)
def test_the_table_and_the_contract_have_the_same_fields(spec, options, only_in_the_contract):
    named = [path for option in options for path in option.fields]
    assert len(named) == len(set(named))
    assert set(named) == leaves(spec).keys() - only_in_the_contract


@pytest.mark.parametrize("option", TRAIN, ids=lambda option: option.name)
def test_an_option_is_what_its_field_can_hold(option):
    field, kind = leaves(pb.TrainSpec)[option.path], option.kind
    held = {
        field.TYPE_INT32: Whole,
        field.TYPE_INT64: Whole,
        field.TYPE_DOUBLE: Number,
        field.TYPE_BOOL: (Flag, Publication),
        field.TYPE_STRING: Patterns if field.is_repeated else (Text, Json, Words),
        field.TYPE_ENUM: Words,
        field.TYPE_MESSAGE: Metadata,
    }
    assert isinstance(kind, held[field.type])
    if isinstance(kind, Whole):
        assert kind.limit == {field.TYPE_INT32: 2**31, field.TYPE_INT64: 2**63}[field.type]
    if field.enum_type:
        assert sorted(kind.words.values()) == [value.number for value in field.enum_type.values if value.number]
    assert option.help.endswith(".")
    assert kind.expects


def test_every_option_comes_back_from_a_specification():
    spec = pb.TrainSpec()
    fill(spec, TRAIN, GIVEN)
    assert {option.name: option.read(spec) for option in TRAIN} == VALUES


def test_an_empty_specification_says_nothing():
    assert {option.read(pb.TrainSpec()) for option in TRAIN} == {None}
    assert {option.read(pb.EvaluateSpec()) for option in EVALUATE} == {None}


@pytest.mark.parametrize(
    ("publish", "expected"), [(True, (True, 1)), (False, (False, 0)), ("last", (True, 1)), ("best", (True, 2))]
)
def test_publishing_is_two_fields(publish, expected):
    spec = pb.TrainSpec()
    fill(spec, TRAIN, {"publish": publish})
    assert (spec.publish, spec.publish_choice) == expected


@pytest.mark.parametrize(("keywords", "options"), [(TrainKeywords, TRAIN), (EvaluateKeywords, EVALUATE)])
def test_type_checkers_see_all_options(keywords, options):
    assert get_type_hints(keywords) == {option.name: option.type for option in options}


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(("method", "options"), [("train", TRAIN), ("evaluate", EVALUATE), ("train_online", ONLINE)])
def test_people_see_all_options(client, method, options):
    function = getattr(client, method)
    parameters = inspect.signature(function).parameters
    own = {"self", "model", "x", "y", "sample_weight", "dataset", "version", "label", "session"}
    assert parameters.keys() - own - {"validation_data", "timeout"} == {option.name for option in options}
    for option in options:
        assert (parameters[option.name].default, parameters[option.name].annotation) == (option.default, option.type)
        assert f"\n    {option.name}: " in function.__doc__
    assert "Default: None." not in " ".join(function.__doc__.split()), "what applies without the option isn't said"
    hints = get_type_hints(function)
    assert all(hints[option.name] == option.type for option in options)


@pytest.mark.parametrize(("command", "options"), [("train", TRAIN), ("evaluate", EVALUATE)])
def test_the_command_line_has_all_options(command, options, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in options:
        for flag in (flag_name(option), *option.flags):
            assert f"{flag} " in shown or f"{flag}," in shown, flag


@pytest.mark.parametrize(
    ("command", "options"), [("train double", TRAIN), ("evaluate double", EVALUATE), ("sweep start double", TRAIN)]
)
def test_every_flag_arrives(server, answer, command, options):
    asked = []
    answer(methods.CREATE_SWEEP, lambda request, _: asked.append(request.spec.train) or CreateSweepResponse())
    line = f"{command} --x server:x.npy --y server:y.npy --address {server.address}"
    more = {"train double": "--detach", "sweep start double": "--detach --try seed=1,2"}.get(command, "")
    main([*f"{line} {more}".split(), *(word for option in options for word in flags(option))])
    (spec,) = asked or [request for name, request in server.calls if name in ("Train", "Evaluate")]
    expected = {option.name: VALUES[option.name] for option in options if not isinstance(option.kind, Publication)}
    assert {option.name: option.read(spec) for option in options if option.name in expected} == expected


def flags(option) -> list[str]:
    """The flags that set an option to its value; those of publication are a choice that excludes other options."""
    name, value = flag_name(option), VALUES[option.name]
    if isinstance(option.kind, Publication):
        return []
    if isinstance(option.kind, Flag):
        return [name if value else f"--no-{name.removeprefix('--')}"]
    if isinstance(value, dict):
        value = tuple(map("=".join, value.items()))
    return [word for one in (value if isinstance(value, tuple) else [value]) for word in (name, str(one).strip('"'))]


@pytest.mark.parametrize(
    ("method", "name", "text"),
    [
        ("train", "epoch", r"train\(\) got an unexpected keyword argument 'epoch'; did you mean 'epochs'\?$"),
        ("train", "nan_policy", r"train\(\) got an unexpected keyword argument 'nan_policy'$"),
        ("evaluate", "epochs", r"evaluate\(\) got an unexpected keyword argument 'epochs'"),
    ],
)
def test_a_name_that_is_no_option_is_refused_as_python_does(client, server, method, name, text):
    with pytest.raises(TypeError, match=text):
        getattr(client, method)("double", [[1.0, 2.0, 3.0]], [1], **{name: 1})
    assert server.calls == []


@pytest.mark.parametrize("splits", [{str(n): 0.01 for n in range(100)}, {"a" * 100: 1}, {"a": 0.7, "b": 0.2, "c": 0.1}])
def test_splits_at_their_limits_are_taken(splits):
    assert splits_problem(splits) == ""


@pytest.mark.parametrize(("name", "bits"), [("epochs", 32), ("seed", 64)])
def test_a_number_that_its_field_cannot_hold_is_refused_by_name(client, server, name, bits):
    with pytest.raises(InvalidArgument, match=f"{name}: got {2 ** (bits - 1)}, expected a whole number"):
        client.train("double", [[1.0, 2.0, 3.0]], [1], **{name: 2 ** (bits - 1)})
    assert server.calls == []
