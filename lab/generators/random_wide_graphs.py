"""Random graphs of all families of layers of any Keras 3, with options and ways of calling that are rare in models.

A step that this Keras refuses is replaced by another one, so that one generator serves all releases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

WIDTHS = (2, 3, 4, 6)
#: A tensor of more elements in one row isn't used on.
_MOST_ELEMENTS = 800
_UNARY = (
    *(
        "abs",
        "tanh",
        "sigmoid",
        "relu",
        "square",
        "exp",
        "negative",
        "softmax",
        "cumsum",
        "sin",
        "round",
        "silu",
        "sign",
    ),
    *("gelu", "log_softmax", "softplus", "leaky_relu", "elu", "flip", "expm1", "ones_like", "floor", "hard_sigmoid"),
)
_REDUCTIONS = ("mean", "sum", "max", "min", "var", "std", "prod", "logsumexp", "median", "count_nonzero", "any")
_POLICIES = ("float16", "bfloat16", "mixed_bfloat16", "mixed_float16", "float64")


class UnfitError(Exception):
    """There is no tensor for what was drawn."""


class WideMaker:
    """Grows one random model of `keras`."""

    def __init__(self, keras: Any, seed: int) -> None:
        self.keras, self.layers, self.ops = keras, keras.layers, keras.ops
        self.rng = np.random.default_rng(seed)
        self.count = 0
        #: On torch, Keras up to 3.8 pads transposed convolutions wrongly, and a mean over steps changes its input.
        self.early = tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 9)
        #: Whether some layers compute in other types.
        self.typed = seed % 5 == 4
        self.inputs: list[Any] = []
        self.tensors: list[Any] = []
        #: What can be called again, with the shape that it took.
        self.again: list[tuple[Callable[[Any], Any], tuple[Any, ...]]] = []
        self.kept: list[Any] = []

    # Choices.

    def flag(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def late(self, choice: Any, early: Any) -> Any:
        """One of both, where this Keras is right about the first."""
        return early if self.early else self.pick((choice, early))

    def options(self) -> dict[str, Any]:
        """A name and, rarely, a policy, or that the layer is frozen."""
        self.count += 1
        options: dict[str, Any] = {"name": f"n{self.count}"} if self.flag() else {}
        if self.typed and self.flag(0.2):
            policy = self.pick(_POLICIES)
            options["dtype"] = policy if self.flag() else self.keras.DTypePolicy(policy)
        return {**options, "trainable": False} if self.flag(0.07) else options

    def some(self, rank: int | None = None) -> Any:
        """A tensor of floats, often the last."""
        fit = [t for t in self.tensors if str(t.dtype).startswith(("float", "bfloat"))]
        fit = [t for t in fit if rank in (None, len(t.shape)) and len(t.shape) > 1 and t.shape[-1]]
        if not fit:
            raise UnfitError
        return fit[-1] if self.flag(0.35) else self.pick(fit)

    def twins(self, tensor: Any) -> list[Any]:
        """Tensors of the same shape. Two unknown lengths may differ once data comes."""
        shape = tuple(tensor.shape)
        if None in shape[1:]:
            return [tensor]
        return [t for t in self.tensors if tuple(t.shape) == shape and t.dtype == tensor.dtype]

    def activation(self) -> Any:
        make = self.layers
        known = (
            "relu",
            "tanh",
            "sigmoid",
            "linear",
            "elu",
            "selu",
            "softplus",
            "softmax",
            "hard_sigmoid",
            "gelu",
            "silu",
        )
        late = ("mish", "relu6", "leaky_relu", "exponential", "softsign", "hard_silu", "celu", "glu", "log_softmax")
        objects = (make.ReLU(2.0), make.LeakyReLU(0.2), self.keras.activations.gelu)
        return self.pick((*known, *late, None, *objects))

    # Layers.

    def cell(self, kind: str, units: int) -> Any:
        options: dict[str, Any] = {"use_bias": self.flag(0.8), "activation": self.pick(("tanh", "relu", "sigmoid"))}
        if kind == "GRU":
            options["reset_after"] = self.flag()
        if kind != "SimpleRNN" and self.flag(0.3):
            options["recurrent_activation"] = self.pick(("sigmoid", "hard_sigmoid"))
        return getattr(self.layers, f"{kind}Cell")(units, **options)

    def recurrent(self, kind: str | None = None, units: int | None = None, **options: Any) -> Any:
        kind, units = kind or self.pick(("SimpleRNN", "GRU", "LSTM")), units or int(self.rng.integers(1, 5))
        options.setdefault("return_sequences", self.flag())
        if self.flag(0.2):
            options["go_backwards"] = True
        if self.flag(0.1):
            options["zero_output_for_mask"] = True
        if self.flag(0.2):
            cells = self.cell(kind, units)
            return self.layers.RNN(cells if self.flag() else [cells, self.cell("GRU", 2)], **options)
        plain = {"unroll": True} if self.flag(0.1) else {}
        return getattr(self.layers, kind)(units, dropout=self.pick((0.0, 0.2)), **plain, **options)

    def vector_layer(self, shape: tuple[Any, ...]) -> Callable[[], Any]:
        make, options, units = self.layers, self.options(), self.pick(WIDTHS)
        return self.pick(
            [
                lambda: make.Dense(units, activation=self.activation(), use_bias=self.flag(0.8), **options),
                lambda: make.Activation(self.activation() or "tanh", **options),
                lambda: make.BatchNormalization(scale=self.flag(), center=self.flag(), momentum=0.9, **options),
                lambda: make.LayerNormalization(axis=self.pick((-1, [-1])), scale=self.flag(), **options),
                # Configs of Keras up to 3.3 lack the option.
                lambda: make.LayerNormalization(
                    rms_scaling="rms_scaling" in make.LayerNormalization().get_config(), **options
                ),
                lambda: make.RMSNormalization(**options),
                lambda: make.UnitNormalization(**options),
                lambda: make.GroupNormalization(groups=self.pick((1, -1)), **options),
                lambda: make.Dropout(0.3, **options),
                lambda: make.GaussianNoise(0.3, **options),
                lambda: make.AlphaDropout(0.3, **options),
                lambda: make.ActivityRegularization(0.1, **options),
                lambda: make.PReLU(**options),
                lambda: make.ELU(0.5, **options),
                lambda: make.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2, **options),
                lambda: make.Softmax(axis=self.pick((-1, 1)), **options),
                lambda: make.Rescaling(self.pick((0.5, [2.0] * shape[-1])), offset=0.1, **options),
                lambda: make.Normalization(mean=0.3, variance=2.0, invert=self.flag(), **options),
                lambda: make.Identity(**options),
                lambda: make.Flatten(**options),
                lambda: make.RepeatVector(3, **options),
                lambda: make.Reshape((-1, 1), **options),
                lambda: make.Discretization([-0.5, 0.0, 0.7], output_mode=self.pick(("int", "one_hot")), **options),
                lambda: make.SpectralNormalization(make.Dense(units), **options),
                lambda: make.EinsumDense("...x,xy->...y", output_shape=units, bias_axes="y", **options),
                lambda: self.keras.Sequential([make.Dense(units), make.Dense(units, activation="relu")]),
            ]
        )

    def sequence_layer(self, shape: tuple[Any, ...]) -> Callable[[], Any]:
        make, options, units = self.layers, self.options(), self.pick(WIDTHS)
        pool = {"padding": self.pick(("same", "valid")), "strides": self.pick((None, 1, 2))}
        conv = {"dilation_rate": self.pick((1, 2))} if self.flag(0.3) else {"strides": self.pick((1, 2))}
        conv |= {"activation": self.activation(), "use_bias": self.flag(0.8)}
        if self.flag(0.2):
            return lambda: self.recurrent(**options)
        return self.pick(
            [
                lambda: self.recurrent(**options),
                lambda: make.Bidirectional(
                    self.recurrent(), merge_mode=self.pick(("concat", "sum", "mul", "ave")), **options
                ),
                lambda: make.Bidirectional(
                    make.LSTM(3, return_sequences=True),
                    backward_layer=make.GRU(3, return_sequences=True, go_backwards=True),
                ),
                lambda: make.TimeDistributed(self.vector_layer((shape[0], shape[2]))(), **options),
                lambda: make.TimeDistributed(self.functional((shape[0], shape[2]), 1), **options),
                lambda: make.Conv1D(units, 3, padding=self.pick(("same", "causal", "valid")), **conv, **options),
                lambda: make.SeparableConv1D(units, 2, padding="same", depth_multiplier=2, **options),
                lambda: make.DepthwiseConv1D(2, padding="same", depth_multiplier=2, **options),
                lambda: make.Conv1DTranspose(units, 3, strides=2, padding=self.late("same", "valid"), **options),
                lambda: make.MaxPooling1D(2, **pool, **options),
                lambda: make.AveragePooling1D(2, **pool, **options),
                lambda: make.GlobalMaxPooling1D(keepdims=self.flag(0.3), **options),
                lambda: self.late(make.GlobalAveragePooling1D, make.GlobalMaxPooling1D)(**options),
                lambda: make.ZeroPadding1D((1, 2), **options),
                lambda: make.Cropping1D((1, 0), **options),
                lambda: make.UpSampling1D(2, **options),
                lambda: make.Masking(self.pick((0.0, 0.5)), **options),
                lambda: make.SpatialDropout1D(0.2, **options),
                lambda: make.Permute((2, 1), **options),
                lambda: make.Reshape((-1, 2), **options),
                lambda: make.EinsumDense("abc,cd->abd", output_shape=(shape[1], units), bias_axes="d", **options),
                lambda: make.PReLU(shared_axes=[1], **options),
            ]
        )

    def image_layer(self, shape: tuple[Any, ...]) -> Callable[[], Any]:
        make, options, units = self.layers, self.options(), self.pick(WIDTHS)
        same = {"padding": self.pick(("same", "valid"))}
        conv = {"dilation_rate": self.pick((1, 2))} if self.flag(0.3) else {"strides": self.pick((1, 2))}
        return self.pick(
            [
                lambda: make.Conv2D(
                    units, self.pick((1, 2, 3)), **same, **conv, activation=self.activation(), **options
                ),
                lambda: make.Conv2D(shape[-1] * 2, (2, 3), groups=shape[-1], **same, **options),
                lambda: make.DepthwiseConv2D(self.pick((2, 3)), **same, depth_multiplier=2, **options),
                lambda: make.SeparableConv2D(units, 3, **same, **options),
                lambda: make.Conv2DTranspose(
                    units, self.pick((2, 3)), strides=2, padding=self.late("same", "valid"), **options
                ),
                lambda: make.MaxPooling2D((2, 1), strides=self.pick((1, 2)), **same, **options),
                lambda: make.AveragePooling2D(2, **same, **options),
                lambda: make.GlobalAveragePooling2D(keepdims=self.flag(), **options),
                lambda: make.GlobalMaxPooling2D(**options),
                lambda: make.ZeroPadding2D(((1, 0), (0, 2)), **options),
                lambda: make.Cropping2D(((1, 0), (0, 1)), **options),
                lambda: make.UpSampling2D((2, 1), interpolation=self.pick(("nearest", "bilinear")), **options),
                lambda: make.Resizing(5, 4, interpolation=self.pick(("nearest", "bilinear")), **options),
                lambda: make.CenterCrop(3, 3, **options),
                lambda: make.RandomFlip(**options),
                lambda: make.Permute((2, 1, 3), **options),
                lambda: make.TimeDistributed(self.sequence_layer((shape[0], *shape[2:]))(), **options),
                lambda: make.ConvLSTM1D(units, 2, padding="same", return_sequences=self.flag(), **options),
                lambda: make.BatchNormalization(axis=self.pick((-1, 1)), **options),
                lambda: make.LayerNormalization(axis=self.pick(((1, 2), [-1, -2])), **options),
                lambda: make.GroupNormalization(groups=1, **options),
                lambda: make.SpatialDropout2D(0.2, **options),
                lambda: make.Reshape((-1, shape[-1]), **options),
                lambda: make.Flatten(**options),
            ]
        )

    def layer_for(self, shape: tuple[Any, ...]) -> Any:
        special = {3: self.sequence_layer, 4: self.image_layer}.get(len(shape))
        return (special if special and self.flag(0.65) else self.vector_layer)(shape)()

    # Models in models.

    def functional(self, shape: tuple[Any, ...], depth: int, *, nested: bool = False) -> Any:
        """A model of a few layers."""
        outer = self.inputs, self.tensors, self.again
        entry = self.keras.Input(shape[1:])
        self.inputs, self.tensors, self.again = [entry], [entry], []
        for _ in range(int(self.rng.integers(1, 4))):
            self.grow(depth - 1)
        outputs = self.nest(self.tensors) if nested else self.tensors[-1]
        model = self.keras.Model({"left": entry} if nested and self.flag() else entry, outputs)
        self.inputs, self.tensors, self.again = outer
        self.kept.append(model)
        return model

    def nest(self, tensors: list[Any]) -> Any:
        some = [tensors[-1], *(self.pick(tensors) for _ in range(int(self.rng.integers(0, 3))))]
        return self.pick([some, tuple(some), {f"o{i}": t for i, t in enumerate(some)}, [some[0], {"a": some}], some[0]])

    def call_model(self, depth: int) -> Any:
        tensor = self.some()
        shape = tuple(tensor.shape)
        model = self.functional(shape, depth, nested=self.flag())

        def call(given: Any) -> Any:
            if isinstance(model.input, dict):
                given = {"left": given}
            return (
                model(given, training=False)
                if self.flag(0.2)
                else model(inputs=given)
                if self.flag(0.1)
                else model(given)
            )

        self.again.append((call, shape))
        return call(tensor)

    # Calls with several tensors.

    def merge(self) -> Any:
        first = self.some()
        others = [self.pick(self.twins(first)) for _ in range(int(self.rng.integers(1, 3)))]
        kind = self.pick(("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract", "Concatenate", "Dot"))
        if kind == "Dot":
            return self.layers.Dot(axes=-1, normalize=self.flag(0.3))([first, others[0]])
        if kind == "Concatenate":
            return self.layers.Concatenate(axis=self.pick((-1, 1)), **self.options())([first, *others])
        return getattr(self.layers, kind)(**self.options())([first, *(others[:1] if kind == "Subtract" else others)])

    def mask(self, steps: int | None) -> Any:
        """A mask of steps: an input, or computed."""
        if steps is None:
            raise UnfitError
        if self.flag():
            made = self.keras.Input((steps,), dtype="bool")
            self.inputs.append(made)
            return made
        return self.ops.greater(
            self.pick([t for t in self.tensors if tuple(t.shape[1:2]) == (steps,) and len(t.shape) == 3])[..., 0], -0.5
        )

    def special(self) -> Any:
        """Recurrent layers with states and masks, attention in all ways of calling."""
        make, kind = self.layers, int(self.rng.integers(6))
        sequence = self.some(rank=3)
        if kind == 0:
            name, units = self.pick(("LSTM", "GRU", "SimpleRNN")), int(self.rng.integers(1, 5))
            states = self.recurrent(name, units, return_state=True)(sequence)[1:]
            decoder = getattr(make, name)(units, return_sequences=self.flag(), **self.options())
            states = list(states) if len(states) > 1 else states[0]
            return decoder(self.some(rank=3), initial_state=states)
        if kind == 1:
            return self.recurrent(return_state=True, **self.options())(sequence)
        if kind == 2:
            return self.recurrent(**self.options())(sequence, mask=self.mask(sequence.shape[1]))
        other = self.pick([t for t in self.tensors if len(t.shape) == 3 and t.shape[-1] == sequence.shape[-1]])
        if kind == 3:
            attention = make.MultiHeadAttention(
                2, int(self.rng.integers(1, 4)), value_dim=self.pick((None, 3)), output_shape=self.pick((None, 3)),
                use_bias=self.flag(), **self.options()
            )  # fmt: skip
            return self.pick(
                [
                    lambda: attention(sequence, other),
                    lambda: attention(query=sequence, value=other, key=other),
                    lambda: attention(sequence, other, None, use_causal_mask=True),
                    lambda: attention(sequence, sequence, return_attention_scores=True),
                    lambda: attention(
                        sequence,
                        sequence,
                        attention_mask=self.ops.ones((1, sequence.shape[1], sequence.shape[1]), "bool"),
                    ),
                    lambda: attention(sequence, sequence, query_mask=self.mask(sequence.shape[1])),
                ]
            )()
        if kind == 4:
            attention = self.pick((make.Attention, make.AdditiveAttention))(use_scale=self.flag(), **self.options())
            return self.pick(
                [
                    lambda: attention([sequence, other]),
                    lambda: attention([sequence, other, other], return_attention_scores=True),
                    lambda: attention([sequence, sequence], use_causal_mask=True),
                    lambda: attention([sequence, sequence], mask=[self.mask(sequence.shape[1]), None]),
                ]
            )()
        query = make.GroupQueryAttention if hasattr(make, "GroupQueryAttention") else make.GroupedQueryAttention
        return query(2, 4, 2, **self.options())(sequence, other)

    def operation(self) -> Any:
        ops, x = self.ops, self.some()
        y, rank = self.pick(self.twins(x)), len(x.shape)
        axis = int(self.rng.integers(1, rank))
        number = self.pick((2, 0.5, -1.5, True, np.float32(0.3), np.arange(x.shape[-1], dtype="float32")))
        return self.pick(
            [
                lambda: getattr(ops, self.pick(_UNARY))(x),
                lambda: getattr(ops, self.pick(_REDUCTIONS))(
                    x, axis=self.pick((axis, (axis,), -1)), keepdims=self.flag()
                ),
                lambda: getattr(ops, self.pick(("add", "subtract", "multiply", "maximum", "minimum")))(
                    x, self.pick((y, number))
                ),
                lambda: getattr(ops, self.pick(("add", "subtract", "multiply", "power")))(x1=x, x2=y),
                lambda: self.pick((x + y, x - number, number * x, 1 - x, x / 2.0, -x, x > y, x**2, abs(x), x // 1)),
                lambda: x[self.pick((..., slice(None), (slice(None), 0), (..., None), (slice(None), slice(1, None))))],
                lambda: ops.concatenate([x, y], axis=axis),
                lambda: ops.stack([x, y], axis=axis),
                lambda: ops.where(x > 0, x, self.pick((y, 0.0))),
                lambda: ops.clip(x, -1, 1),
                lambda: ops.transpose(x, (0, *range(rank - 1, 0, -1))),
                lambda: ops.expand_dims(x, axis),
                lambda: ops.reshape(x, (-1, int(np.prod(x.shape[1:])))),
                lambda: ops.cast(x, self.pick(("float16", "int32", "float32", "bool"))),
                lambda: ops.matmul(x, ops.swapaxes(y, -1, -2)),
                lambda: ops.einsum("...i,...i->...", x, y),
                lambda: ops.one_hot(ops.argmax(x, axis=-1), x.shape[-1]),
                lambda: ops.take(x, [0, -1], axis=axis),
                lambda: ops.split(x, x.shape[-1], axis=-1),
                lambda: ops.pad(x, [(0, 0)] * (rank - 1) + [(1, 2)]),
                lambda: ops.repeat(x, 2, axis=axis),
                lambda: ops.top_k(x, 1).values,
                lambda: ops.norm(x, axis=-1, keepdims=True),
                lambda: ops.shape(x)[0] * x,
            ]
        )()

    # The graph.

    def grow(self, depth: int) -> None:
        """Adds what one call gives, unless this Keras refuses six in a row."""
        for _ in range(6):
            inputs, tensors, again = list(self.inputs), list(self.tensors), list(self.again)
            try:
                made = [t for t in self.keras.tree.flatten(self.step(depth)) if hasattr(t, "shape")][:4]
            except Exception:
                self.inputs, self.tensors, self.again = inputs, tensors, again
                continue
            self.tensors += [
                t for t in made if 0 not in t.shape and np.prod([n or 4 for n in t.shape[1:]]) <= _MOST_ELEMENTS
            ]
            return

    def step(self, depth: int) -> Any:
        kind = self.rng.random()
        if kind < 0.12:
            return self.merge()
        if kind < 0.24 and self.again:
            call, shape = self.pick(self.again)
            return call(self.pick([t for t in self.tensors if tuple(t.shape) == shape and "float" in str(t.dtype)]))
        if kind < 0.34 and depth > 0:
            return self.call_model(depth)
        if kind < 0.46:
            return self.special()
        if kind < 0.62:
            return self.operation()
        tensor = self.some()
        shape = tuple(tensor.shape)
        layer = self.layer_for(shape)
        self.again.append((layer, shape))
        if type(layer).__name__ in ("BatchNormalization", "Dropout") and self.flag(0.2):
            return layer(tensor, training=False)
        return layer(inputs=tensor) if self.flag(0.05) else layer(tensor)

    def encoded(self, ids: Any, width: int) -> Any:
        """Ids as floats."""
        make = self.layers
        choices = [
            lambda: make.Embedding(7, width, mask_zero=self.flag(0.6), **self.options()),
            lambda: make.CategoryEncoding(7, output_mode=self.pick(("one_hot", "multi_hot", "count"))),
            lambda: make.Embedding(7, width, mask_zero=True),
        ]
        return self.pick(choices)()(ids)

    def model(self) -> Any:
        for kind in self.pick(
            (
                ("vector", "sequence"),
                ("ids", "image"),
                ("open", "vector"),
                ("sequence", "ids"),
                ("image",),
                ("openids", "words"),
            )
        ):
            width = self.pick(WIDTHS)
            shape = {
                **{"vector": (width,), "sequence": (5, width), "open": (None, width)},
                **{"image": (7, 6, width), "ids": (5,), "openids": (None,), "words": (4,)},
            }[kind]
            whole = kind in ("ids", "openids", "words")
            tensor = self.keras.Input(shape, dtype="int32" if whole else "float32")
            self.inputs.append(tensor)
            self.tensors.append(tensor)
            if whole:
                self.tensors.append(self.encoded(tensor, width))
        for _ in range(int(self.rng.integers(4, 13))):
            self.grow(depth=2)
        made = [t for t in self.tensors if not any(t is one for one in self.inputs)]
        if not made:
            raise UnfitError
        outputs = [made[-1], *(t for t in made[:-1] if self.flag(0.25))]
        inputs = self.pick([self.inputs, {f"i{k}": t for k, t in enumerate(self.inputs)}])
        return self.keras.Model(
            inputs, self.pick([outputs, {f"o{k}": t for k, t in enumerate(outputs)}, tuple(outputs)])
        )
