"""The tables of options: they and the contract name the same fields, and all that is made from them has all options."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
from layerserve import AsyncClient, Checkpoints, Client, InvalidArgument, Publish, Resources, Split
from layerserve.cli import main
from layerserve.cli.flags import flag_name
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.contract import BUDGET, COMPILE, RUN, VIEW
from layerserve.training.options.keywords import EvaluateKeywords, TrainKeywords
from layerserve.training.options.kinds import (
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
from layerserve.training.options.option import fill
from layerserve.v1 import training_pb2 as pb
from option_values import GIVEN, VALUES, check_all, check_shown, run_with_all_flags

#: What a specification says that is no option: the model, and the arrays.
REST = {"model", "data"}
CONTRACT = (*RUN, *COMPILE, *BUDGET, *VIEW)


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
        (pb.TrainSpec, CONTRACT, set()),
        (pb.TrainSpec, TRAIN, {"view.validation"}),
        (pb.EvaluateSpec, EVALUATE, {"compile.optimizer", "view.validation", "sample_losses"}),
    ],
)
def test_the_table_and_the_contract_have_the_same_fields(spec, options, only_in_the_contract):
    named = [path for option in options for path in option.fields]
    assert len(named) == len(set(named))
    assert set(named) == leaves(spec).keys() - only_in_the_contract


@pytest.mark.parametrize("option", CONTRACT, ids=lambda option: option.name)
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
    spec.view.validation = "b"
    assert {option.name: option.read(spec) for option in CONTRACT} == VALUES


def test_an_empty_specification_says_nothing():
    assert {option.read(pb.TrainSpec()) for option in CONTRACT} == {None}
    assert {option.read(pb.EvaluateSpec()) for option in CONTRACT if option.evaluates} == {None}


@pytest.mark.parametrize(
    ("publish", "expected"),
    [
        *((True, (True, 1)), (False, (False, 0)), ("best", (True, 2))),
        *((Publish(), (True, 1)), (Publish(best=True), (True, 2))),
    ],
)
def test_publishing_is_two_fields(publish, expected):
    spec = pb.TrainSpec()
    fill(spec, TRAIN, {"publish": publish})
    assert (spec.publish, spec.publish_choice) == expected


@pytest.mark.parametrize(("given", "expected"), [("val_score", ("val_score", "")), ("a:b:min", ("a:b", "min"))])
def test_a_log_may_say_what_is_better(given, expected):
    spec = pb.TrainSpec()
    fill(spec, TRAIN, {"monitor": given})
    assert (spec.monitor, spec.monitor_mode) == expected


def test_validation_is_on_a_share_or_on_a_part_of_a_split():
    spec = pb.TrainSpec()
    fill(spec, TRAIN, {"validation_split": "test", "split": Split("train", {"train": 0.5, "test": 0.5})})
    assert (spec.validation_split, spec.view.split, spec.view.validation) == (0, "train", "test")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"publish": "last"},
            r"publish: got 'last', expected True, False, 'best' or Publish\(best, if_improved,",
        ),
        ({"publish": 1}, r"publish: got 1, expected True, False, 'best' or Publish"),
        ({"checkpoints": 3}, r"checkpoints: got 3, expected Checkpoints\(every_epochs, every_steps, keep"),
        ({"checkpoints": Checkpoints(keep=0)}, r"checkpoints.keep: got 0, expected a whole number from 1"),
        ({"resources": Resources(workers="2")}, r"resources.workers: got '2', expected a whole number from 1"),
        ({"split": "train"}, r"split: got 'train', expected Split\(use, shares, seed\)"),
        ({"split": Split("a", {"a": 2.0})}, r"split.shares: got 2.0 for 'a', expected a dict of name to share"),
        ({"publish": Publish(format="h5")}, r"publish.format: got 'h5', expected one of 'keras3', "),
        ({"validation_split": 1.5}, r"validation_split: got 1.5, expected a share from 0 to 1 \(exclusive\)"),
    ],
)
def test_a_wrong_value_is_named_with_its_object(given, text):
    with pytest.raises(InvalidArgument, match=text):
        fill(pb.TrainSpec(), TRAIN, given)


@pytest.mark.parametrize(("keywords", "options"), [(TrainKeywords, TRAIN), (EvaluateKeywords, EVALUATE)])
def test_type_checkers_see_all_options(keywords, options):
    assert get_type_hints(keywords) == {option.name: option.type for option in options}


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(("method", "options"), [("train", TRAIN), ("evaluate", EVALUATE)])
def test_people_see_all_options(client, method, options):
    check_shown(getattr(client, method), options)


@pytest.mark.parametrize(("command", "options"), [("train", TRAIN), ("evaluate", EVALUATE)])
def test_the_command_line_has_all_options(command, options, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in options:
        for flag in (flag_name(option), *option.flags):
            assert f"{flag} " in shown or f"{flag}," in shown, flag


@pytest.mark.parametrize(("flag", "version", "label"), [("--version 1", 1, ""), ("--label stable", 0, "stable")])
@pytest.mark.parametrize(("command", "options"), [("train double --detach", TRAIN), ("evaluate double", EVALUATE)])
def test_every_flag_arrives(server, command, options, flag, version, label):
    assert run_with_all_flags(f"{command} {flag}", options, server.address) == 0
    ((_, spec),) = [call for call in server.calls if call[0] in ("Train", "Evaluate")]
    check_all(spec, options)
    assert (spec.model.version, spec.model.label) == (version, label)


@pytest.mark.parametrize("text", ["no", '{"no": true}'])
def test_publishing_may_be_left_out_by_a_flag(server, text):
    line = f"train double --x server:x.npy --y server:y.npy --address {server.address} --detach --publish"
    assert main([*line.split(), text]) == 0
    ((_, spec),) = [call for call in server.calls if call[0] == "Train"]
    assert not spec.publish


@pytest.mark.parametrize(
    ("method", "name", "text"),
    [
        ("train", "epoch", r"train\(\) got an unexpected keyword argument 'epoch'; did you mean 'epochs'\?$"),
        (
            "train",
            "workers",
            r"unexpected keyword argument 'workers'; did you mean resources=Resources\(workers=...\)\?$",
        ),
        ("train", "verbose", r"'verbose'; run.wait\(progress=True\) shows the progress$"),
        ("train", "learning_rate", r"'learning_rate'; it is an option of the optimizer: \{'class_name': 'Adam'"),
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


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_the_data_comes_first(client):
    names = [*inspect.signature(client.train).parameters]
    assert names[1:7] == ["model", "x", "y", "sample_weight", "validation_data", "epochs"]
    assert names[-3:] == ["version", "label", "timeout"]
