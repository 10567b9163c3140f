"""Whether a model's masks make padding exact, so that sequences of different lengths can be computed together.

Each call of the plan, in order, is run on random sequences: each row alone, and all rows padded to one length. Behind
the sequences, the model's inputs hold the padding value. All other values may hold anything there, so they are filled
with large random numbers. An output of a call must either be a sequence that is right up to its length (with a mask
that hides the rest, if a later call needs one), or be independent of padding. By induction, the model's outputs are
right. Finally the whole plan is run once on padded rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from layergraph.errors import LayerGraphError
from layergraph.execution.liveness import masks_needed
from layergraph.execution.plan import Plan
from layergraph.execution.samples import NoSamplesError, Sampler
from layergraph.execution.sequence_padding import Array, SequencePadding
from layergraph.execution.step import Step
from layergraph.execution.tuning.agreement import TOLERANCE, difference
from layergraph.functional.binding import bind_values
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.invocation import Mask
from layergraph.functional.row_independence import close
from layergraph.functional.strings import Strings
from layergraph.functional.symbolic_dims import SymbolicDims
from layergraph.functional.tensor import Shape, Tensor

_ROWS = 3
#: Rounds of random numbers, each of which reveals a padded zero in another way: sequence lengths of the rows, padded
#: length, sign of the numbers (0: either), and whether some timesteps are masked already.
_ROUNDS = (
    ((1, 5, 8), 9, 0, False),
    ((2, 1, 4), 5, -1, False),
    ((6, 3, 7), 11, 1, False),
    ((3, 8, 1), 9, 0, True),
    ((5, 2, 6), 8, 0, True),
)
#: Ranges of random integers (low, high), and whether floats are whole numbers of that range, too, as some models take
#: token ids as floats. The first that a call accepts is used: ids and classes have few values, counts have many.
_DRAWS = (
    *((-50, 50, False), (0, 50, False), (0, 5, False), (0, 2, False)),
    *((0, 50, True), (0, 5, True), (0, 2, True)),
)
#: Difference in length between the sequences of two inputs whose lengths are independent.
_LENGTH_GAP = 12
#: Length of other axes that a value leaves open.
_OPEN_LENGTH = 4
#: Factor by which the numbers behind a sequence are larger than those in it.
_GARBAGE = 30.0
#: Fraction of timesteps that are masked.
_MASKED = 0.3
#: Tolerances for 32 and 16 bits: largest difference relative to max(1, |expected|).
_CALL_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2


class UnpaddableError(LayerGraphError):
    """Padding would change a model's results, or can't be verified not to; the message names the layer."""


@dataclass(frozen=True)
class _Sequences:
    """A value with sequences along axis 1.

    origin      index of the input that has the same sequence lengths
    masked      whether it has a mask that hides padding
    fill        value behind the sequences; None for arbitrary values, False for masks that are passed as tensors
    shows_all   for a mask that is passed as a tensor: whether it hides no timestep unless an input masks it
    """

    origin: int
    masked: bool = False
    fill: float | int | None = None
    shows_all: bool = False


@dataclass(frozen=True)
class _Whole:
    """A value that is independent of padding."""

    masked: bool = False


State: TypeAlias = "_Sequences | _Whole"


def check_padding(plan: Plan) -> SequencePadding:
    """How the sequences of a plan's inputs can be padded. Raises UnpaddableError if they can't be."""
    names = _sequence_inputs(plan)
    if not plan.batched:
        raise UnpaddableError("the rows of its batches aren't independent")
    refusal: UnpaddableError | None = None
    # The least restrictive conditions are tried first.
    for equal_lengths in (False, True) if len(names) > 1 else (False,):
        for unmasked in (False, True):
            try:
                padding = _Check(plan, names, equal_lengths=equal_lengths, unmasked=unmasked).padding()
                _try_plan(plan, padding)
            except UnpaddableError as reason:
                refusal = reason
            else:
                return padding
    assert refusal is not None
    raise refusal


def _sequence_inputs(plan: Plan) -> list[str]:
    names = []
    for spec in plan.input_specs:
        if spec.dtype == Strings.dtype:
            raise UnpaddableError(f"input '{spec.name}' takes text")
        if None in spec.shape[2:]:
            raise UnpaddableError(f"input '{spec.name}' has shape {spec.shape}, expected no open axis behind axis 1")
        if len(spec.shape) > 1 and spec.shape[1] is None:
            names.append(spec.name)
    if not names:
        raise UnpaddableError("no input has sequences of variable length")
    return names


class _Check:
    """One attempt: with inputs of equal or different lengths, and with some timesteps masked already or none."""

    def __init__(self, plan: Plan, names: Sequence[str], *, equal_lengths: bool, unmasked: bool) -> None:
        self._plan = plan
        self._names = names
        self._equal_lengths = equal_lengths
        self._unmasked = unmasked
        self._states: dict[int, State] = {}

    def padding(self) -> SequencePadding:
        """How the inputs can be padded. Raises UnpaddableError if a call's results depend on padding."""
        plan = self._plan
        inputs, outputs = plan.slots
        slots = {spec.name: slot for spec, slot in zip(plan.input_specs, inputs, strict=True)}
        fills: dict[str, float | int] = {}
        for spec in plan.input_specs:
            given: State = _Whole()
            if spec.name in self._names:
                fills[spec.name] = _fill(plan.steps, slots[spec.name], spec.dtype)
                origin = 0 if self._equal_lengths else self._names.index(spec.name)
                given = _Sequences(origin, fill=fills[spec.name])
            self._states[slots[spec.name]] = given
        read = {slot for step in plan.steps for slot in step.sources} | set(outputs)
        masking: set[int] = set()
        for step, want in zip(plan.steps, masks_needed(plan.steps, []), strict=True):
            states = self._try(step, want)
            for target, state in zip(step.targets, states, strict=True):
                if state is not None:
                    self._states[target] = state
                elif target in read:
                    raise UnpaddableError(f"{_name(step)} changes the number of timesteps, or moves them")
            if any(state is not None and (state.masked or getattr(state, "shows_all", False)) for state in states):
                masking.update(step.sources)
        ends = {spec.name: self._states[slot] for spec, slot in zip(plan.output_specs, outputs, strict=True)}
        return SequencePadding(
            fills=fills,
            lengths={name: self._names[s.origin] for name, s in ends.items() if isinstance(s, _Sequences)},
            equal_lengths=self._equal_lengths,
            unmasked=frozenset(name for name in fills if self._unmasked and slots[name] in masking),
        )

    def _try(self, step: Step, want_masks: bool) -> list[State | None]:
        """The states of a call's outputs; None for an output of any other shape. Raises UnpaddableError."""
        states = [self._states[slot] for slot in step.sources]
        if not any(isinstance(state, _Sequences) for state in states):
            return [_Whole(tensor.mask_shape is not None and want_masks) for tensor in step.made]
        wrong: Exception | None = None
        for draw in _DRAWS:
            try:
                found = [
                    _Round(step, states, *round, draw).outputs(want_masks)
                    for round in _ROUNDS
                    if not (self._unmasked and round[-1])
                ]
            except UnpaddableError:
                raise
            except Exception as error:
                wrong = error
            else:
                return [_agreed(step, states) for states in zip(*found, strict=True)]
        raise UnpaddableError(f"{_name(step)} fails for sequences of random lengths: {str(wrong).splitlines()[0]}")


def _agreed(step: Step, states: Sequence[State | None]) -> State | None:
    """The state that holds in all rounds. Raises UnpaddableError if they differ in more than `fill` and `shows_all`."""
    first = states[0]
    if isinstance(first, _Sequences):
        plain = replace(first, fill=None, shows_all=False)
        if all(isinstance(s, _Sequences) and replace(s, fill=None, shows_all=False) == plain for s in states):
            filled = all(isinstance(s, _Sequences) and s.fill is False for s in states)
            shows_all = filled and all(isinstance(s, _Sequences) and s.shows_all for s in states)
            return replace(plain, fill=False, shows_all=shows_all) if filled else plain
    elif all(state == first for state in states):
        return first
    raise UnpaddableError(f"{_name(step)} gives outputs whose shapes depend on the lengths in another way")


class _Round:
    """One call, run on sequences of some lengths."""

    def __init__(
        self,
        step: Step,
        states: Sequence[State],
        lengths: Sequence[int],
        longest: int,
        sign: int,
        masked: bool,
        draw: tuple[int, int, bool],
    ) -> None:
        self._step = step
        self._states = states
        self._lengths = lengths
        self._longest = longest
        self._sign = sign
        self._masked = masked
        self._low, self._high, self._whole_floats = draw
        self._generator = torch.Generator().manual_seed(longest)
        made: dict[int, tuple[torch.Tensor, Mask]] = {}
        for slot, tensor, state in zip(step.sources, step.call.tensors, states, strict=True):
            if slot not in made:
                made[slot] = self._random(tensor, state, len(made) % _ROWS)
        self._values = [made[slot][0] for slot in step.sources]
        self._masks = [made[slot][1] for slot in step.sources]
        self._origins = sorted({state.origin for state in states if isinstance(state, _Sequences)})

    def outputs(self, want_masks: bool) -> list[State | None]:
        """The states of the outputs."""
        together = self._run(None, want_masks)
        alone = [self._run(row, want_masks) for row in range(_ROWS)]
        return [
            self._output(value, mask, [parts[0][i] for parts in alone], [parts[1][i] for parts in alone])
            for i, (value, mask) in enumerate(zip(*together, strict=True))
        ]

    def _length(self, origin: int, row: int | None) -> int:
        """Number of timesteps of a row's sequences, or of the padded ones if `row` is None."""
        return (self._longest if row is None else self._lengths[row]) + origin * _LENGTH_GAP

    def _random(self, tensor: Tensor, state: State, hidden_row: int) -> tuple[torch.Tensor, Mask]:
        """Values and mask of all rows, padded. If timesteps are masked, those of `hidden_row` all are."""
        if not isinstance(state, _Sequences):
            shape = _sized(tensor.shape, _OPEN_LENGTH)
            mask = (
                self._random_mask(_sized(tensor.mask_shape, _OPEN_LENGTH))
                if state.masked and tensor.mask_shape
                else None
            )
            return self._numbers(shape, tensor.dtype), mask
        longest = self._length(state.origin, None)
        shape = _sized(tensor.shape, longest)
        values = self._numbers(shape, tensor.dtype)
        has_signs = not self._whole_floats if values.is_floating_point() else self._low < 0 and values.dtype.is_signed
        if self._sign and has_signs:
            values = self._sign * values.abs()
        garbage = self._numbers(shape, tensor.dtype)
        if garbage.is_floating_point() and not self._whole_floats:
            garbage = garbage * _GARBAGE
        mask = torch.ones(_sized(tensor.mask_shape or tensor.shape[:2], longest), dtype=torch.bool)
        if self._masked:
            mask = self._random_mask(mask.shape)
            mask[hidden_row] = False
        if values.dtype == torch.bool and state.fill is False:
            garbage = torch.zeros_like(values)
            if self._masked or not state.shows_all:
                values[hidden_row] = False
            else:
                values[(..., -1) if values.ndim > 2 else ...] = True
        elif state.fill is not None:
            garbage = torch.full_like(values, state.fill)
            values = torch.where(values == state.fill, (values == 0).to(values.dtype), values)
            if values.ndim > 2 and values.shape[-1] > 1:
                values[..., 0] = state.fill  # A single feature that equals the fill masks no timestep.
            values = torch.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values, garbage)
        for row in range(_ROWS):
            length = self._length(state.origin, row)
            values[row, length:] = garbage[row, length:]
            mask[row, length:] = False
        return values, mask if state.masked else None

    def _numbers(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        kind = torch_dtype(dtype)
        if kind.is_floating_point and not self._whole_floats:
            return torch.randn(shape, generator=self._generator).to(kind)
        low, high = (self._low if kind.is_signed else 0), (2 if kind == torch.bool else self._high)
        return torch.randint(low, high, shape, generator=self._generator).to(kind)

    def _random_mask(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.rand(tuple(shape), generator=self._generator) >= _MASKED

    def _run(self, row: int | None, want_masks: bool) -> tuple[list[torch.Tensor], list[Mask]]:
        """Outputs and masks of one row at its own length, or of all rows padded if `row` is None."""
        call = self._step.call
        values, masks = list(self._values), list(self._masks)
        if row is not None:
            for i, state in enumerate(self._states):
                steps = slice(self._length(state.origin, row) if isinstance(state, _Sequences) else None)
                if call.tensors[i].shape[:1] == (None,):
                    values[i] = _part(values[i], row, steps)
                    mask = masks[i]
                    masks[i] = None if mask is None else _part(mask, row, steps)
        with torch.inference_mode(False), torch.no_grad():
            weights = bind_values(call.layer)
        with torch.inference_mode():
            outputs, made = call(CallContext(losses=None), weights, values, masks, want_masks=want_masks)
        return outputs, made

    def _output(
        self, value: torch.Tensor, mask: Mask, parts: Sequence[torch.Tensor], part_masks: Sequence[Mask]
    ) -> State | None:
        name = _name(self._step)
        if all(part.shape[1:] == value.shape[1:] for part in parts):
            if not all(_close(part, _rows_of(value, part, row)) for row, part in enumerate(parts)):
                raise UnpaddableError(f"{name} uses timesteps that no mask hides")
            return _Whole(mask is not None)
        for origin in self._origins:
            lengths = [self._length(origin, row) for row in range(_ROWS)]
            shapes = [(1, length, *value.shape[2:]) for length in lengths]
            if value.shape[1] != self._length(origin, None) or [tuple(part.shape) for part in parts] != shapes:
                continue
            for row, (part, length) in enumerate(zip(parts, lengths, strict=True)):
                if not _close(part, value[row : row + 1, :length]):
                    raise UnpaddableError(f"{name} gives other numbers for a timestep if padding follows")
            hides = mask is not None and self._hides(mask, part_masks, lengths)
            return _Sequences(origin, hides, *self._mask_state(value, parts, lengths))
        return None

    def _mask_state(
        self, value: torch.Tensor, parts: Sequence[torch.Tensor], lengths: Sequence[int]
    ) -> tuple[bool | None, bool]:
        """`fill` and `shows_all` of a value that may be a mask: fill is False if it is False behind every sequence.

        A timestep with several elements counts as unmasked if any of them is True, as in the tensor that Masking
        computes its mask from.
        """
        if value.dtype != torch.bool or any(bool(value[row, n:].any()) for row, n in enumerate(lengths)):
            return None, False
        shows_all = [part.flatten(2).any(2) if part.ndim > 2 else part for part in parts]
        return False, self._masked or all(bool(steps.all()) for steps in shows_all)

    def _hides(self, mask: torch.Tensor, parts: Sequence[Mask], lengths: Sequence[int]) -> bool:
        for row, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if part is None or not torch.equal(part[0], mask[row, :length]) or bool(mask[row, length:].any()):
                raise UnpaddableError(f"the mask of {_name(self._step)} doesn't hide padding")
            if not self._masked and not bool(part.all()):
                raise UnpaddableError(f"the mask of {_name(self._step)} hides timesteps that no input masks")
        return True


def _try_plan(plan: Plan, padding: SequencePadding) -> None:
    """Runs the plan on rows of different lengths, alone and padded. Raises UnpaddableError if the results differ."""
    try:
        sampler = Sampler(plan.input_specs, plan.run_eagerly)
    except NoSamplesError as reason:
        raise UnpaddableError(str(reason)) from None
    lengths = range(3, 8)
    parts = [_sample(plan, padding, sampler, number, length) for number, length in enumerate(lengths)]
    try:
        results = plan.run(padding.join(parts))
    except LayerGraphError as wrong:
        raise UnpaddableError(f"sequences of {lengths[0]} to {lengths[-1]} timesteps are refused: {wrong}") from wrong
    for row, part in enumerate(parts):
        own = padding.cut({name: result[row : row + 1] for name, result in results.items()}, part)
        for name, expected in plan.run(part).items():
            off = difference([own[name]], [expected])
            if not off <= TOLERANCE:
                raise UnpaddableError(f"output '{name}' differs by {off:.2g} for a padded row")


def _sample(plan: Plan, padding: SequencePadding, sampler: Sampler, seed: int, length: int) -> dict[str, Array]:
    """A random row whose inputs have `length` timesteps; more for later inputs if lengths may differ."""
    part = {}
    for spec, array in zip(plan.input_specs, sampler.rows(1, seed=seed), strict=True):
        if spec.name in padding.fills:
            more = 0 if padding.equal_lengths else 2 * list(padding.fills).index(spec.name)
            array = array[:, : length + more].copy()
            if spec.name in padding.unmasked:
                fill = padding.fills[spec.name]
                array[array == fill] = 0 if fill else 1
        part[spec.name] = array
    return part


def _fill(steps: Sequence[Step], slot: int, dtype: str) -> float | int:
    """The padding value of an input: the mask_value of a layer that reads it (keras.layers.Masking), else 0."""
    found = (getattr(step.call.layer, "mask_value", None) for step in steps if slot in step.sources)
    fill = next((value for value in found if isinstance(value, (int, float))), 0)
    cast: float | int = torch.tensor(fill).to(torch_dtype(dtype)).item()
    return cast


def _name(step: Step) -> str:
    layer = step.call.layer
    return f"layer '{layer.name}' ({type(layer).__name__})"


def _sized(shape: Shape, steps: int) -> tuple[int, ...]:
    return SymbolicDims(_ROWS, steps).fill(shape)


def _part(value: torch.Tensor, row: int, steps: slice) -> torch.Tensor:
    """One row, and some of its timesteps."""
    return value[row : row + 1, steps] if value.ndim > 1 else value[row : row + 1]


def _rows_of(value: torch.Tensor, part: torch.Tensor, row: int) -> torch.Tensor:
    """The expected value of `part`; a value without a row axis is shared by all rows."""
    return value[row : row + 1] if value.ndim and value.shape[0] == _ROWS and part.shape[:1] == (1,) else value


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    half = a.is_floating_point() and a.dtype.itemsize < 4
    return close(a, b, _HALF_TOLERANCE if half else _CALL_TOLERANCE)
