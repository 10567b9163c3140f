"""More ways to move, join and cut arrays (keras.ops.numpy, core and nn)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    anything,
    boolean,
    integer,
    list_of,
    one_of,
    one_or_list_of,
    option,
    optional,
    positive_int,
)
from layergraph.errors import DataError, GraphError
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation, Typed, as_tensors
from layergraph.ops.shapes import Split

#: Elements that a range has at the most.
_LONGEST = 10_000_000


def whole(value: Any) -> int:
    """A number of a shape: a plain one, or a tensor of one element whose value is known."""
    return int(value.item()) if isinstance(value, torch.Tensor) else int(value)


class Shape(Operation):
    """The lengths of the axes (tf.shape, keras.ops.shape). Its values are known before data comes, but for None."""

    keras_module = "layergraph.ops"

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The shape as int32, on the processor: it is used to tell other shapes."""
        return torch.tensor(list(x.shape), dtype=torch.int32)


class Size(Operation):
    """keras.ops.size."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The number of elements."""
        return torch.tensor(x.numel(), dtype=torch.int32)


class Ndim(Operation):
    """keras.ops.ndim."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The number of axes."""
        return torch.tensor(x.ndim, dtype=torch.int32)


class Full(Typed):
    """keras.ops.full, tf.fill."""

    reads_values = True
    computes_values = True
    shape: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, fill_value: Any, shape: Any = None) -> torch.Tensor:
        """One value everywhere. `shape` in the call may hold tensors."""
        lengths = self.shape if shape is None else shape
        lengths = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        lengths = [whole(n) for n in (lengths if isinstance(lengths, (list, tuple)) else [lengths])]
        value = fill_value if isinstance(fill_value, torch.Tensor) else torch.as_tensor(fill_value)
        return self.converted(value).expand(lengths)


class Pad(Operation):
    """keras.ops.pad."""

    pad_width: Any = option(anything)
    mode: str = option(one_of("constant", "reflect", "symmetric", "edge"), default="constant")

    def forward(self, run: Run, w: Any, x: torch.Tensor, constant_values: Any = None) -> torch.Tensor:
        """x with more around it."""
        widths = _pairs(self.pad_width, x.ndim)
        if self.mode == "constant":
            flat = [n for pair in reversed(widths) for n in pair]
            value = (
                0 if constant_values is None else whole(constant_values) if x.dtype == torch.int32 else constant_values
            )
            return torch.nn.functional.pad(x, flat, value=float(value) if x.is_floating_point() else value)
        for axis, (before, after) in enumerate(widths):
            x = x.index_select(axis, self._sources(x.shape[axis], before, after, x.device))
        return x

    def _sources(self, length: int, before: int, after: int, device: torch.device) -> torch.Tensor:
        at = torch.arange(-before, length + after, device=device)
        if self.mode == "edge":
            return at.clamp(0, length - 1)
        if self.mode == "reflect":
            at = at.abs()
            return torch.where(at >= length, 2 * (length - 1) - at, at)
        at = torch.where(at < 0, -at - 1, at)
        return torch.where(at >= length, 2 * length - 1 - at, at)


def _pairs(widths: Any, rank: int) -> list[tuple[int, int]]:
    if isinstance(widths, int):
        return [(widths, widths)] * rank
    pairs = [(item, item) if isinstance(item, int) else tuple(item) for item in widths]
    if len(widths) == 2 and all(isinstance(item, int) for item in widths):
        pairs = [(widths[0], widths[1])]
    pairs = pairs * rank if len(pairs) == 1 else pairs
    if len(pairs) != rank or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise GraphError(f"pad_width is {widths}, expected two numbers for each of {rank} axes")
    return [(int(a), int(b)) for a, b in pairs]


class Rot90(Operation):
    """keras.ops.rot90."""

    k: int = option(integer, default=1)
    axes: Any = option(list_of(integer), default=(0, 1))

    def forward(self, run: Run, w: Any, array: torch.Tensor) -> torch.Tensor:
        """Quarter turns."""
        return torch.rot90(array, self.k, list(self.axes))


class Append(Operation):
    """keras.ops.append."""

    axis: int | None = option(optional(integer), default=None)

    def forward(self, run: Run, w: Any, x1: Any, x2: Any) -> torch.Tensor:  # type: ignore[override]
        """The second behind the first."""
        a, b = as_tensors(x1, x2)
        return torch.cat([a.reshape(-1), b.reshape(-1)]) if self.axis is None else torch.cat([a, b], self.axis)


class _Diagonal(Operation):
    offset: int = option(integer, default=0)
    axis1: int = option(integer, default=0)
    axis2: int = option(integer, default=1)


class Diagonal(_Diagonal):
    """keras.ops.diagonal."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The diagonal."""
        return torch.diagonal(x, self.offset, self.axis1, self.axis2)


class Trace(_Diagonal):
    """keras.ops.trace."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The sum of the diagonal."""
        y = torch.diagonal(x, self.offset, self.axis1, self.axis2).sum(-1)
        return y if x.is_floating_point() else y.to(torch.promote_types(x.dtype, torch.int32))


class _Offset(Operation):
    k: int = option(integer, default=0)


class Diag(_Offset):
    """keras.ops.diag."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The diagonal of a matrix, or the matrix of a diagonal."""
        return torch.diag(x, self.k)


class Tril(_Offset):
    """keras.ops.tril."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """What is on and below a diagonal."""
        return torch.tril(x, self.k)


class Triu(_Offset):
    """keras.ops.triu."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """What is on and above a diagonal."""
        return torch.triu(x, self.k)


class _Joined(Operation):
    def forward(self, run: Run, w: Any, xs: Any) -> torch.Tensor:
        """The arrays as one."""
        return self.joined(list(xs))

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """How they are joined."""
        raise NotImplementedError


class Hstack(_Joined):
    """keras.ops.hstack."""

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Along the second axis."""
        return torch.hstack(xs)


class Vstack(_Joined):
    """keras.ops.vstack."""

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Along the first axis."""
        return torch.vstack(xs)


class Dstack(_Joined):
    """keras.ops.dstack."""

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Along the third axis."""
        return torch.dstack(xs)


class AddN(_Joined):
    """tf.add_n."""

    keras_module = "layergraph.ops"

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Their sum."""
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total


class _SplitAlong(Operation):
    indices_or_sections: Any = option(one_or_list_of(integer))
    along = 0

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """The parts."""
        return Split(self.indices_or_sections, self.along).forward(run, w, x)


class Hsplit(_SplitAlong):
    """keras.ops.hsplit."""

    along = 1


class Dsplit(_SplitAlong):
    """keras.ops.dsplit."""

    along = 2


class ArraySplit(Operation):
    """keras.ops.array_split."""

    indices_or_sections: Any = option(one_or_list_of(integer))
    axis: int = option(integer, default=0)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """The parts, which may differ in length."""
        given = self.indices_or_sections
        return list(torch.tensor_split(x, given if isinstance(given, int) else list(given), self.axis))


class SplitSizes(Operation):
    """tf.split with the lengths of the parts."""

    keras_module = "layergraph.ops"
    sizes: Any = option(list_of(integer))
    axis: int = option(integer, default=0)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """The parts. One length may be -1."""
        rest = x.shape[self.axis] - sum(n for n in self.sizes if n >= 0)
        sizes = [rest if n < 0 else n for n in self.sizes]
        if min(sizes) < 0 or sum(sizes) != x.shape[self.axis]:
            raise GraphError(f"can't split {x.shape[self.axis]} elements in parts of {list(self.sizes)}")
        return list(torch.split(x, sizes, self.axis))


class Fliplr(Operation):
    """keras.ops.fliplr."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The second axis backwards."""
        return x.flip(1)


class Flipud(Operation):
    """keras.ops.flipud."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The first axis backwards."""
        return x.flip(0)


class Meshgrid(Operation):
    """keras.ops.meshgrid."""

    indexing: str = option(one_of("xy", "ij"), default="xy")

    def forward(self, run: Run, w: Any, x: Any, y: Any = None, z: Any = None) -> list[torch.Tensor]:
        """Coordinates of a grid."""
        axes = [value.reshape(-1) for value in (x, y, z) if value is not None]
        return list(torch.meshgrid(*axes, indexing=self.indexing))


class TakeAlongAxis(Operation):
    """keras.ops.take_along_axis."""

    axis: int | None = option(optional(integer), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor, indices: Any) -> torch.Tensor:  # type: ignore[override]
        """One element for each index. Raises DataError for one out of range."""
        chosen = torch.as_tensor(indices, device=x.device).to(torch.int64)
        axis = self.axis
        if axis is None:
            x, chosen, axis = x.reshape(-1), chosen.reshape(-1), 0
        length = x.shape[axis]
        if not chosen.is_meta and chosen.numel() and not -length <= int(chosen.min()) <= int(chosen.max()) < length:
            raise DataError(f"an index is not among {length} elements")
        return torch.take_along_dim(x, torch.where(chosen < 0, chosen + length, chosen), axis)


class GatherBatch(Operation):
    """tf.gather with batch dimensions, and gather_nd of the last axis."""

    keras_module = "layergraph.ops"
    axis: int = option(integer, default=0)
    batch_dims: int = option(positive_int, default=1)

    def forward(self, run: Run, w: Any, x: torch.Tensor, indices: Any) -> torch.Tensor:  # type: ignore[override]
        """Slices of x, by indices that differ in each row."""
        chosen = torch.as_tensor(indices, device=x.device).to(torch.int64)
        axis = self.axis % x.ndim
        if self.batch_dims != 1 or axis < 1:
            raise GraphError(f"gather with batch_dims {self.batch_dims} and axis {self.axis} is not supported")
        x = x.movedim(axis, 1)
        flat = chosen.reshape(chosen.shape[0], -1)
        index = flat.reshape(*flat.shape, *[1] * (x.ndim - 2)).expand(*flat.shape, *x.shape[2:])
        y = x.gather(1, index).reshape(*chosen.shape, *x.shape[2:])
        places = chosen.ndim - 1
        return y.movedim(tuple(range(1, 1 + places)), tuple(range(axis, axis + places)))


class OneHot(Operation):
    """keras.ops.one_hot."""

    keras_module = "keras.src.ops.nn"

    num_classes: int = option(positive_int)
    axis: int = option(integer, default=-1)
    sparse: bool = option(boolean, default=False)

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        self.element_type = dtype or "float32"
        super().__init__(*args, **kwargs)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """1 at the place of each integer, which is nowhere for one out of range."""
        classes = torch.arange(self.num_classes, device=x.device)
        y = (x.to(torch.int64).unsqueeze(-1) == classes).to(torch_dtype(self.element_type))
        return y.movedim(-1, self.axis)

    def get_config(self) -> dict[str, Any]:
        """Name, type and options."""
        return {**super().get_config(), "dtype": self.element_type}


class Slice(Operation):
    """keras.ops.slice."""

    keras_module = "keras.src.ops.core"
    shape: Any = option(list_of(integer))

    def forward(self, run: Run, w: Any, inputs: torch.Tensor, start_indices: Any) -> torch.Tensor:  # type: ignore[override]
        """A block of x from some place."""
        starts = start_indices.tolist() if isinstance(start_indices, torch.Tensor) else start_indices
        for axis, (start, length) in enumerate(zip(starts, self.shape, strict=True)):
            length = inputs.shape[axis] - whole(start) if length < 0 else length
            inputs = inputs.narrow(axis, whole(start), length)
        return inputs


class SliceUpdate(Operation):
    """keras.ops.slice_update."""

    keras_module = "keras.src.ops.core"

    def forward(  # type: ignore[override]
        self, run: Run, w: Any, inputs: torch.Tensor, start_indices: Any, updates: torch.Tensor
    ) -> torch.Tensor:
        """x with a block of it replaced."""
        starts = start_indices.tolist() if isinstance(start_indices, torch.Tensor) else start_indices
        place = tuple(slice(whole(s), whole(s) + n) for s, n in zip(starts, updates.shape, strict=True))
        result = inputs.clone()
        result[place] = updates.to(inputs.dtype)
        return result


class _Blocks(Operation):
    keras_module = "keras.src.ops.nn"

    block_size: int = option(positive_int)
    data_format: str = option(one_of("channels_last", "channels_first"), default="channels_last")

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """The image with other axes."""
        last = self.data_format == "channels_last"
        y = self.moved(x if last else x.movedim(1, -1), self.block_size)
        return y if last else y.movedim(-1, 1)

    def moved(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """How elements move, with the channels last."""
        raise NotImplementedError


class DepthToSpace(_Blocks):
    """keras.ops.depth_to_space."""

    def moved(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """Channels become a block of pixels."""
        rows, height, width, depth = x.shape
        y = x.reshape(rows, height, width, block, block, depth // block**2).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(rows, height * block, width * block, -1)


class SpaceToDepth(_Blocks):
    """keras.ops.space_to_depth."""

    def moved(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """A block of pixels becomes channels."""
        rows, height, width, depth = x.shape
        y = x.reshape(rows, height // block, block, width // block, block, depth).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(rows, height // block, width // block, depth * block**2)


class Identity(Operation):
    """tf.identity and the like."""

    keras_module = "layergraph.ops"

    def forward(self, run: Run, w: Any, x: Any) -> Any:
        """x as it is."""
        return x


class Arange(Typed):
    """tf.range, keras.ops.arange."""

    computes_values = True

    def forward(self, run: Run, w: Any, start: Any, stop: Any = None, step: Any = None) -> torch.Tensor:
        """Evenly spaced integers."""
        first, last = (0, start) if stop is None else (start, stop)
        values = [x.item() if isinstance(x, torch.Tensor) else x for x in (first, last, 1 if step is None else step)]
        if values[2] == 0 or abs(values[1] - values[0]) / abs(values[2]) > _LONGEST:
            raise GraphError(f"a range of {values} has too many elements")
        integers = all(isinstance(x, int) for x in values)
        return self.converted(torch.arange(*values, dtype=torch.int32 if integers else torch.float32))


OPERATIONS: dict[str, type[Operation]] = {
    "Append": Append,
    "Arange": Arange,
    "ArraySplit": ArraySplit,
    "DepthToSpace": DepthToSpace,
    "Diag": Diag,
    "Diagonal": Diagonal,
    "Dsplit": Dsplit,
    "Dstack": Dstack,
    "Fliplr": Fliplr,
    "Flipud": Flipud,
    "Full": Full,
    "Hsplit": Hsplit,
    "Hstack": Hstack,
    "Meshgrid": Meshgrid,
    "Ndim": Ndim,
    "OneHot": OneHot,
    "Pad": Pad,
    "Rot90": Rot90,
    "Size": Size,
    "Slice": Slice,
    "SliceUpdate": SliceUpdate,
    "SpaceToDepth": SpaceToDepth,
    "TakeAlongAxis": TakeAlongAxis,
    "Trace": Trace,
    "Tril": Tril,
    "Triu": Triu,
    "Vstack": Vstack,
    "tf>AddN": AddN,
    "tf>GatherBatch": GatherBatch,
    "tf>Identity": Identity,
    "tf>Shape": Shape,
    "tf>SplitSizes": SplitSizes,
}
