"""The arguments of `train` and `evaluate`, in the order of their signatures.

They are the options of the contract (`contract.py`). Those of one kind are one argument: an object, whose
fields are these options. `make client` writes the arguments into `keywords.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.training.options.contract import BUDGET, COMPILE, RUN, VIEW
from layerserve.training.options.kinds import Group, Monitored, Publication, ShareOrName
from layerserve.training.options.option import Option


def _sets(option: str) -> Any:
    """Declares a field that sets an option of the contract; None leaves the option as it is."""
    return dataclasses.field(default=None, metadata={"option": option})


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """What a run publishes, as the `publish` of `train`. A session takes `label` and `format` only.

    `best` publishes the weights of the epoch that is best in `monitor`, not the last ones. With `if_improved`, the name
    of a log, the result is published only if it is better in it than the version from which the run started, on the
    validation data. `label` is set to the new version. `format` is that of its file: "keras3" and "keras3_h5" for Keras
    3, "keras2" and "keras2_h5" for tf.keras; default: the model's.

    With `expected_base_version` the result is published only if that is still the newest version. If another was
    published meanwhile, `on_conflict` decides: "refuse" keeps the result for `publish` of the run, and "rebase"
    publishes it if it is better than the newest version on the validation data.

    Example:
        client.train("mnist", images, labels, validation_split=0.1, publish=Publish(best=True, label="canary"))
    """

    best: bool = False
    if_improved: str | None = _sets("publish_if_improved")
    label: str | None = _sets("publish_label")
    format: str | None = _sets("format")
    expected_base_version: int | None = _sets("expected_base_version")
    on_conflict: str | None = _sets("on_conflict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Which checkpoints a run keeps, also after its end, to be published, evaluated or trained further.

    One is written after every `every_epochs` epochs, and after every `every_steps` steps; the newest `keep` of these
    are kept (default: all; alone, of each epoch). `keep_best` is the number of epochs, the best in `monitor`, whose
    checkpoints are kept besides. By default none is.

    `resume_seconds` is the time between two checkpoints from which an interrupted run goes on; default: the server's.

    Example:
        client.train("mnist", images, labels, epochs=20, checkpoints=Checkpoints(every_epochs=5, keep_best=3))
    """

    every_epochs: int | None = _sets("checkpoint_every_epochs")
    every_steps: int | None = _sets("checkpoint_every_steps")
    keep: int | None = _sets("keep_checkpoints")
    keep_best: int | None = _sets("keep_best_checkpoints")
    resume_seconds: float | None = _sets("checkpoint_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a run may use, beside the server's limits. A session takes those that begin with `max_`.

    After `max_seconds` of training the run ends early, with its result so far. A run that uses more than
    `max_memory_bytes` of memory, or whose folder has more than `max_disk_bytes`, fails. `workers` is the number of
    processes that train together, each with a part of every batch, if the server allows several; default: 1. Runs of a
    higher `priority` leave the queue first; default: 0.
    """

    max_seconds: float | None = _sets("max_seconds")
    max_memory_bytes: int | None = _sets("max_memory_bytes")
    max_disk_bytes: int | None = _sets("max_disk_bytes")
    workers: int | None = _sets("workers")
    priority: int | None = _sets("priority")


@dataclass(frozen=True, slots=True)
class Split:
    """The rows to use: the part `use` of `shares`, which are shares of the rows by name, in order.

    No row is in two parts. With a `seed`, rows are divided in an order that depends on it and their number only, in all
    runs; default: in the order of the data.

    Example:
        shares = {"train": 0.8, "test": 0.2}
        client.train("mnist", images, labels, split=Split("train", shares, seed=7), validation_split="test")
        client.evaluate("mnist", images, labels, split=Split("test", shares, seed=7))
    """

    use: str = dataclasses.field(metadata={"option": "split"})
    shares: Mapping[str, float] = dataclasses.field(metadata={"option": "splits"})
    seed: int | None = _sets("split_seed")


_FLAT = {option.name: option for option in (*RUN, *COMPILE, *BUDGET, *VIEW)}


@dataclass(frozen=True)
class Several(Option):
    """An argument that sets several options: an object, or a value in place of one."""

    #: The class of the object, and its fields with the options that they set.
    holder: type[Any] = object
    parts: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    #: The option that True, False and `best` set.
    choice: Option | None = None

    def part(self, name: str) -> str:
        return f"{self.name}={self.holder.__name__}({name}=...)" if name in self.parts else ""

    @property
    def fields(self) -> tuple[str, ...]:
        options = (self.choice, *self.parts.values())
        return tuple(path for option in options if option is not None for path in option.fields)

    def write(self, spec: Any, value: Any) -> None:
        """Sets the options in a spec. Raises InvalidArgument for a value of another type, or one that is invalid."""
        if value is None:
            return
        if self.choice is not None and isinstance(value, (bool, str)) and value in (True, False, "best"):
            if value is False:
                self.choice.write(spec, False)
                return
            value = self.holder(best=value == "best")
        if not isinstance(value, self.holder):
            raise InvalidArgument(f"{self.name}: got {value!r}, expected {self.kind.expects}")
        if self.choice is not None:
            best = value.best and isinstance(self.choice.kind, Publication)
            self.choice.write(spec, "best" if best else True)
        for line in dataclasses.fields(self.holder):
            given = getattr(value, line.name)
            if line.name in self.parts:
                if given is None:
                    continue
                dataclasses.replace(self.parts[line.name], name=f"{self.name}.{line.name}").write(spec, given)
            elif given != line.default and not (line.name == "best" and best):
                raise InvalidArgument(f"{self.name}.{line.name}: got {given!r}, expected none for a session")


def _several(name: str, holder: type[Any], help: str, otherwise: str, *, evaluates: bool = False) -> Several:
    publishes = holder is Publish
    lines = dataclasses.fields(holder)
    expects = f"{holder.__name__}({', '.join(line.name for line in lines)})"
    return Several(
        name=name,
        default=True if publishes else None,
        kind=Group(f"True, False, 'best' or {expects}" if publishes else expects),
        help=help,
        unit="",
        otherwise=otherwise,
        path=name,
        evaluates=evaluates,
        continues=False,
        flags=(),
        type=bool | str | Publish if publishes else holder | None,
        annotation="bool | str | Publish" if publishes else f"{holder.__name__} | None",
        holder=holder,
        parts={line.name: _FLAT[line.metadata["option"]] for line in lines if line.metadata},
        choice=_FLAT["publish"] if publishes else None,
    )


PUBLISH_OPTION = _several(
    "publish", Publish, "Make the result a new version of the model, by default the last weights.", ""
)
CHECKPOINTS_OPTION = _several("checkpoints", Checkpoints, "Which checkpoints to keep.", "none")
RESOURCES_OPTION = _several("resources", Resources, "What the run may use.", "what the server allows")
_SPLIT = _several("split", Split, "Rows to use.", "all rows", evaluates=True)
_VALIDATION = dataclasses.replace(
    _FLAT["validation_split"],
    kind=ShareOrName(),
    help="Share of the last rows to validate with instead, or the name of a part of `split`.",
    type=float | str,
    annotation="float | str",
)
_MONITOR = dataclasses.replace(_FLAT["monitor"], kind=Monitored())


def _named(names: str) -> list[Option]:
    return [_FLAT[name] for name in names.split()]


#: The arguments of `train`.
TRAIN: tuple[Option, ...] = (
    *_named("epochs batch_size steps_per_epoch"),
    _VALIDATION,
    _SPLIT,
    *_named("shuffle seed class_weight callbacks"),
    *COMPILE,
    *_named("freeze lora precision on_nan"),
    _MONITOR,
    PUBLISH_OPTION,
    CHECKPOINTS_OPTION,
    *_named("from_checkpoint"),
    RESOURCES_OPTION,
    *_named("description metadata idempotency_key"),
)
#: The arguments of `evaluate`.
EVALUATE = tuple(option for option in TRAIN if option.evaluates)
