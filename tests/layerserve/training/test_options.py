"""The tables of options: they and the contract name the same fields, and all that is made from them has all options."""

from __future__ import annotations

import inspect
import operator
from typing import get_type_hints

import pytest
from layerserve import AsyncClient, Checkpoints, Client, InvalidArgument, Publish, Resources, Split
from layerserve.calls import methods
from layerserve.cli import main
from layerserve.cli.flags import flag_name
from layerserve.training.options.arguments import EVALUATE, ONLINE, TRAIN
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
from layerserve.v1 import online_pb2
from layerserve.v1 import training_pb2 as pb
from layerserve.v1.sweeps_pb2 import CreateSweepResponse

#: What a specification says that is no option: the model, and the arrays.
REST = {"model", "data"}
#: A value for each option that is no default, as a specification gives it back.
VALUES = {
    **{"epochs": 2, "batch_size": 3, "steps_per_epoch": 2**40, "validation_split": 0.25},
    **{"class_weight": '{"0": 2.0}', "shuffle": False, "seed": 0, "freeze": ("a*", "!ab")},
    **{"callbacks": '["TerminateOnNaN"]', "publish": "best", "monitor": "loss", "monitor_mode": "max"},
    **{"publish_if_improved": "accuracy", "publish_label": "new", "format": "keras2", "priority": -1, "workers": 2},
    **{"on_nan": "continue", "checkpoint_seconds": 0.0, "description": "why", "optimizer": '"sgd"', "loss": '"mse"'},
    **{"loss_weights": "[0.5]", "metrics": '["mae"]', "weighted_metrics": "[]", "max_seconds": 1.5},
    **{"metadata": {"a": "1"}, "idempotency_key": "k", "expected_base_version": 2**40, "on_conflict": "rebase"},
    **{"max_memory_bytes": 2**40, "max_disk_bytes": 1, "lora": '{"rank": 8}'},
    "precision": "auto",
    **{"splits": '{"a": 0.5, "b": 0.25}', "split": "a", "validate_on": "b", "split_seed": 0},
    **{
        "checkpoint_every_epochs": 2,
        "checkpoint_every_steps": 2**40,
        "keep_checkpoints": 3,
        "keep_best_checkpoints": 4,
    },
    **{"from_checkpoint": "r1/e2"},
}
#: The same as the arguments of a client.
GIVEN = {
    **{name: VALUES[name] for name in ("epochs", "batch_size", "steps_per_epoch", "shuffle", "seed", "freeze")},
    **{name: VALUES[name] for name in ("on_nan", "description", "metadata", "idempotency_key", "precision")},
    **{"class_weight": {0: 2.0}, "callbacks": "TerminateOnNaN", "optimizer": "sgd", "loss": "mse"},
    **{"loss_weights": [0.5], "metrics": ["mae"], "weighted_metrics": [], "lora": 8, "from_checkpoint": "r1/e2"},
    **{"split": Split("a", {"a": 0.5, "b": 0.25}, seed=0), "monitor": "loss:max", "validation_split": 0.25},
    "publish": Publish(
        best=True,
        if_improved="accuracy",
        label="new",
        format="keras2",
        expected_base_version=2**40,
        on_conflict="rebase",
    ),
    "checkpoints": Checkpoints(every_epochs=2, every_steps=2**40, keep=3, keep_best=4, resume_seconds=0.0),
    "resources": Resources(max_seconds=1.5, max_memory_bytes=2**40, max_disk_bytes=1, workers=2, priority=-1),
}
#: The same as flags, where they aren't the texts of these values.
FLAGS = {
    "monitor": ["loss:max"],
    "split": ['{"use":"a","shares":{"a":0.5,"b":0.25},"seed":0}'],
    "publish": [
        "best,if_improved=accuracy,label=new",
        f"format=keras2,expected_base_version={2**40},on_conflict=rebase",
    ],
    "checkpoints": [f"every_epochs=2,every_steps={2**40}", "keep=3,keep_best=4,resume_seconds=0"],
    "resources": ["max_seconds=1.5,max_memory_bytes=1T", '{"max_disk_bytes":1,"workers":2,"priority":-1}'],
}
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


@pytest.mark.parametrize(
    "given",
    [{"publish": Publish(best=True)}, {"checkpoints": Checkpoints(keep=1)}, {"resources": Resources(workers=2)}],
)
def test_what_a_session_does_not_have_is_refused(given):
    with pytest.raises(InvalidArgument, match=r"\w+.(best|keep|workers): got .*, expected none for a session"):
        fill(online_pb2.OnlineSpec(), ONLINE, given)
    fill(online_pb2.OnlineSpec(), ONLINE, {})


@pytest.mark.parametrize(("keywords", "options"), [(TrainKeywords, TRAIN), (EvaluateKeywords, EVALUATE)])
def test_type_checkers_see_all_options(keywords, options):
    assert get_type_hints(keywords) == {option.name: option.type for option in options}


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(("method", "options"), [("train", TRAIN), ("evaluate", EVALUATE), ("train_online", ONLINE)])
def test_people_see_all_options(client, method, options):
    function = getattr(client, method)
    parameters = inspect.signature(function).parameters
    own = {"self", "model", "x", "y", "sample_weight", "version", "label", "session"}
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
    # A share and a split exclude one another.
    named = [option for option in options if option.name != "validation_split"]
    assert main([*f"{line} {more}".split(), *(word for option in named for word in flags(option))]) == 0
    (spec,) = asked or [request for name, request in server.calls if name in ("Train", "Evaluate")]
    expected = type(spec)()
    fill(expected, named, GIVEN)
    assert leaves_of(spec, named) == leaves_of(expected, named)


def leaves_of(spec, options) -> dict:
    """The values of the fields that options set."""
    return {path: operator.attrgetter(path)(spec) for option in options for path in option.fields}


def flags(option) -> list[str]:
    """The flags that set an option to its value."""
    name = flag_name(option)
    if option.name in FLAGS:
        return [word for text in FLAGS[option.name] for word in (name, text)]
    value = VALUES[option.name]
    if isinstance(option.kind, Flag):
        return [name if value else f"--no-{name.removeprefix('--')}"]
    if isinstance(value, dict):
        value = tuple(map("=".join, value.items()))
    return [word for one in (value if isinstance(value, tuple) else [value]) for word in (name, str(one).strip('"'))]


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
    assert len(names) - 1 == 34
