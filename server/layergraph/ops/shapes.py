"""Operations that move elements: axes, slices, joins and repeats (keras.ops.numpy)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import integer, list_of, one_or_list_of, option, optional
from layergraph.errors import GraphError
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation


def _list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _lengths(value: Any) -> list[int]:
    """Numbers of a shape, some of which, or all, may be tensors whose values are known."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return [int(n) for n in (value if isinstance(value, (list, tuple)) else [value])]


class ExpandDims(Operation):
    """keras.ops.expand_dims."""

    computes_values = True

    axis: Any = option(one_or_list_of(integer))

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x with new axes of length 1."""
        axes = _list(self.axis)
        rank = x.ndim + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x


class Squeeze(Operation):
    """keras.ops.squeeze."""

    computes_values = True

    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x without axes of length 1."""
        if self.axis is None:
            return x.squeeze()
        axes = _list(self.axis)
        if any(x.shape[axis] != 1 for axis in axes):
            raise GraphError(f"axis is {self.axis}, expected axes of length 1 of shape {tuple(x.shape)}")
        return x.squeeze(axes)


class Reshape(Operation):
    """keras.ops.reshape."""

    reads_values = True
    computes_values = True
    newshape: Any = option(optional(one_or_list_of(lambda n: -1 if n is None else integer(n))), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor, newshape: Any = None) -> torch.Tensor:
        """x in another shape. `newshape` in the call may hold tensors."""
        return x.reshape(_lengths(self.newshape if newshape is None else newshape))


class Ravel(Operation):
    """keras.ops.ravel."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x in one row."""
        return x.reshape(-1)


class Transpose(Operation):
    """keras.ops.transpose."""

    axes: Any = option(optional(list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x with its axes in another order, by default reversed."""
        return x.permute(self.axes or tuple(range(x.ndim))[::-1])


class Swapaxes(Operation):
    """keras.ops.swapaxes."""

    axis1: int = option(integer)
    axis2: int = option(integer)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x with two axes exchanged."""
        return x.transpose(self.axis1, self.axis2)


class Moveaxis(Operation):
    """keras.ops.moveaxis."""

    source: Any = option(one_or_list_of(integer))
    destination: Any = option(one_or_list_of(integer))

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x with axes elsewhere."""
        return x.movedim(_list(self.source), _list(self.destination))


class Flip(Operation):
    """keras.ops.flip."""

    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x backwards along axes, by default all."""
        return x.flip(list(range(x.ndim)) if self.axis is None else _list(self.axis))


class Roll(Operation):
    """keras.ops.roll."""

    shift: Any = option(one_or_list_of(integer))
    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """x moved round along axes."""
        return x.roll(self.shift) if self.axis is None else x.roll(self.shift, self.axis)


class Tile(Operation):
    """keras.ops.tile."""

    reads_values = True
    repeats: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor, repeats: Any = None) -> torch.Tensor:
        """x many times over. `repeats` in the call may hold tensors."""
        return x.tile(_lengths(self.repeats if repeats is None else repeats))


class Repeat(Operation):
    """keras.ops.repeat."""

    repeats: int = option(integer)
    axis: int | None = option(optional(integer), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Each element many times."""
        return x.repeat_interleave(self.repeats, self.axis)


class BroadcastTo(Operation):
    """keras.ops.broadcast_to."""

    reads_values = True
    shape: Any = option(optional(list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor, shape: Any = None) -> torch.Tensor:
        """x in a larger shape. `shape` in the call may hold tensors."""
        return x.broadcast_to(_lengths(self.shape if shape is None else shape))


class Concatenate(Operation):
    """keras.ops.concatenate."""

    computes_values = True

    axis: int | None = option(optional(integer), default=0)

    def forward(self, run: Run, w: Any, xs: Any) -> torch.Tensor:
        """The tensors in a row, in the widest of their types."""
        if self.axis is None:
            return torch.cat([x.reshape(-1) for x in xs])
        return torch.cat(list(xs), self.axis)


class Stack(Operation):
    """keras.ops.stack."""

    computes_values = True

    axis: int = option(integer, default=0)

    def forward(self, run: Run, w: Any, x: Any) -> torch.Tensor:
        """The tensors along a new axis."""
        # Numbers may stand among them, as in a shape.
        like = next((item for item in x if isinstance(item, torch.Tensor)), None)
        return torch.stack(
            [item if isinstance(item, torch.Tensor) or like is None else torch.as_tensor(item).to(like) for item in x],
            self.axis,
        )


class Split(Operation):
    """keras.ops.split."""

    indices_or_sections: Any = option(one_or_list_of(integer))
    axis: int = option(integer, default=0)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """The parts. Raises GraphError if equal parts don't come out."""
        if isinstance(self.indices_or_sections, int):
            if x.shape[self.axis] % self.indices_or_sections:
                raise GraphError(f"can't split {x.shape[self.axis]} elements in {self.indices_or_sections} equal parts")
            return list(torch.tensor_split(x, self.indices_or_sections, self.axis))
        return list(torch.tensor_split(x, list(self.indices_or_sections), self.axis))


class Unstack(Operation):
    """keras.ops.unstack."""

    keras_module = "keras.src.ops.core"

    num: int | None = option(optional(integer), default=None)
    axis: int = option(integer, default=0)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """The slices along an axis."""
        return list(x.unbind(self.axis))


class GetItem(Operation):
    """x[key]: integers, slices, an ellipsis and new axes, as in NumPy."""

    reads_values = True
    computes_values = True

    def forward(self, run: Run, w: Any, x: torch.Tensor, key: Any) -> torch.Tensor:  # type: ignore[override]
        """The part of x. Slices with a negative step, which torch lacks, are taken from the flipped axis."""
        keys = key if isinstance(key, tuple) else tuple(key) if isinstance(key, list) else (key,)
        keys = tuple(_plain_slice(k) for k in keys)
        if Ellipsis in [k for k in keys if not isinstance(k, torch.Tensor)]:
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            used = sum(1 for k in keys if k is not None and k is not Ellipsis)
            keys = (*keys[:at], *[slice(None)] * (x.ndim - used), *keys[at + 1 :])
        axis = 0
        forward = []
        for k in keys:
            if isinstance(k, slice) and k.step is not None and k.step < 0:
                picked = range(*k.indices(x.shape[axis]))
                x = x.flip(axis) if len(picked) else x
                last = x.shape[axis] - 1
                k = slice(last - picked.start, last - picked[-1] + 1, -k.step) if len(picked) else slice(0, 0)
            forward.append(k)
            axis += k is not None
        return x[tuple(forward)]


def _plain_slice(key: Any) -> Any:
    """A slice, whose ends may be tensors of one element; in Keras 2's files it is {"start", "stop", "step"}."""
    if not isinstance(key, dict):
        return key
    ends = (key.get(name) for name in ("start", "stop", "step"))
    return slice(*(int(end.item()) if isinstance(end, torch.Tensor) else end for end in ends))


class Take(Operation):
    """keras.ops.take."""

    axis: int | None = option(optional(integer), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor, indices: Any) -> torch.Tensor:  # type: ignore[override]
        """Elements of x by index along an axis; negative ones count from the end."""
        chosen = torch.as_tensor(indices, device=x.device).to(torch.int64)
        if self.axis is None:
            x, axis = x.reshape(-1), 0
        else:
            axis = self.axis % x.ndim
        chosen = torch.where(chosen < 0, chosen + x.shape[axis], chosen)
        picked = x.index_select(axis, chosen.reshape(-1))
        return picked.reshape(*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :])


OPERATIONS: dict[str, type[Operation]] = {
    "BroadcastTo": BroadcastTo,
    "Concatenate": Concatenate,
    "ExpandDims": ExpandDims,
    "Flip": Flip,
    "GetItem": GetItem,
    "Moveaxis": Moveaxis,
    "Ravel": Ravel,
    "Repeat": Repeat,
    "Reshape": Reshape,
    "Roll": Roll,
    "Split": Split,
    "Squeeze": Squeeze,
    "Stack": Stack,
    "Swapaxes": Swapaxes,
    "Take": Take,
    "Tile": Tile,
    "Transpose": Transpose,
    "Unstack": Unstack,
}
