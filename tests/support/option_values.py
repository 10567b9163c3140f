"""A value for each option of training, in all its forms, and whether it arrives."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from layerserve import Checkpoints, Publish, Resources, Split
from layerserve.cli import main
from layerserve.cli.flags import flag_name
from layerserve.training.options.kinds import Flag
from layerserve.training.options.option import Option, fill

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


def check_shown(function: Callable[..., Any], options: Sequence[Option]) -> None:
    """Asserts that a function's signature, annotations and docstring have these options, and no others."""
    parameters = inspect.signature(function).parameters
    own = {"self", "model", "x", "y", "sample_weight", "version", "label", "session"}
    assert parameters.keys() - own - {"validation_data", "timeout"} == {option.name for option in options}
    for option in options:
        assert (parameters[option.name].default, parameters[option.name].annotation) == (option.default, option.type)
        assert f"\n    {option.name}: " in function.__doc__
    assert "Default: None." not in " ".join(function.__doc__.split()), "what applies without the option isn't said"
    hints = get_type_hints(function)
    assert all(hints[option.name] == option.type for option in options)


def run_with_all_flags(command: str, options: Sequence[Option], address: str) -> int:
    """Runs a command with a flag for each option."""
    line = f"{command} --x server:x.npy --y server:y.npy --address {address}"
    return main([*line.split(), *(word for option in _together(options) for word in _flags(option))])


def check_all(spec: Any, options: Sequence[Option]) -> None:
    """Asserts that a specification has the values of the flags."""
    expected = type(spec)()
    fill(expected, _together(options), GIVEN)
    assert _leaves_of(spec, options) == _leaves_of(expected, options)


def _together(options: Sequence[Option]) -> list[Option]:
    # A share and a split exclude one another.
    return [option for option in options if option.name != "validation_split"]


def _leaves_of(spec: Any, options: Sequence[Option]) -> dict[str, Any]:
    """The values of the fields that options set; None for a field that isn't set, which 0 isn't."""
    return {path: _leaf_of(spec, path) for option in options for path in option.fields}


def _leaf_of(spec: Any, path: str) -> Any:
    message, _, name = path.rpartition(".")
    owner = operator.attrgetter(message)(spec) if message else spec
    missing = owner.DESCRIPTOR.fields_by_name[name].has_presence and not owner.HasField(name)
    return None if missing else getattr(owner, name)


def _flags(option: Option) -> list[str]:
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
