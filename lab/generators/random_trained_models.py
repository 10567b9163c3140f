"""Random models to be trained, in stock Keras, with data for them: `lab/fuzz/training.py` trains them on both sides.

Models and data are small, so that thousands of runs take an hour. Training draws no random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]

#: What outputs are, and so which losses, metrics and labels go with them.
KINDS = ("real", "positive", "binary", "multilabel", "classes", "logits")
ACTIVATIONS = {"positive": "softplus", "binary": "sigmoid", "multilabel": "sigmoid", "classes": "softmax"}
STEPS = 5
WORDS = 9


class Draw:
    """Decisions of one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def chance(self, share: float) -> bool:
        """True in that share of cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Any) -> Any:
        """One of several."""
        return choices[int(self.rng.integers(len(choices)))]

    def some(self, choices: Any, most: int) -> list[Any]:
        """Up to `most` of several, at least one."""
        count = int(self.rng.integers(1, most + 1))
        order = self.rng.permutation(len(choices))[:count]
        return [choices[int(place)] for place in order]

    def between(self, low: float, high: float) -> float:
        """A number, rounded so that files hold it exactly enough."""
        return round(float(self.rng.uniform(low, high)), 4)


@dataclass(frozen=True, slots=True)
class Head:
    """An output: its name, kind, and shape without rows; `masked` where a mask arrives with it."""

    name: str
    kind: str
    shape: Shape
    masked: bool

    @property
    def stepwise(self) -> bool:
        """Whether it has a value for each step."""
        return len(self.shape) > 1


@dataclass(slots=True)
class Made:
    """A model with its heads in flat order and data for its inputs.

    structure   how outputs are nested: "one", "list", "dict" by name, or "nested" as `nest` has it
    nest        the outputs' names, nested as the outputs are
    """

    model: Any
    heads: list[Head]
    inputs: list[Array]
    structure: str
    nest: Any = None

    def nested(self, by_name: dict[str, Any]) -> Any:
        """What there is by output name, nested as the outputs are."""
        return _renamed(self.nest, by_name)


def _renamed(nest: Any, by_name: dict[str, Any]) -> Any:
    if isinstance(nest, dict):
        return {key: _renamed(item, by_name) for key, item in nest.items()}
    if isinstance(nest, list):
        return [_renamed(item, by_name) for item in nest]
    return by_name[nest]


class ModelMaker:
    """Grows a random model."""

    def __init__(self, draw: Draw, rows: int, policy: str | None) -> None:
        self.draw = draw
        self.rows = rows
        self.policy = policy
        self.count = 0
        self.inputs: list[tuple[Any, Array]] = []

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def options(self, kind: str, **given: Any) -> dict[str, Any]:
        """A name, sometimes a policy, and at times what is penalised or projected."""
        draw = self.draw
        policy = {"dtype": self.policy} if self.policy else {}
        extras: dict[str, Any] = {}
        regularizers = ("l1", "l2", keras.regularizers.L1L2(0.001, 0.002), keras.regularizers.L2(0.02))
        limits = (
            "non_neg",
            "unit_norm",
            keras.constraints.MaxNorm(1.0, axis=0),
            keras.constraints.MinMaxNorm(0.3, 0.9, rate=0.7, axis=0),
        )
        if draw.chance(0.2):
            extras["kernel_regularizer"] = draw.pick(regularizers)
        if draw.chance(0.1):
            extras["bias_regularizer"] = draw.pick(regularizers)
        if draw.chance(0.15):
            extras["activity_regularizer"] = keras.regularizers.L1L2(0.0, 0.003)
        if draw.chance(0.15):
            extras["kernel_constraint"] = draw.pick(limits)
        if draw.chance(0.1):
            extras["bias_constraint"] = draw.pick(limits[:2] if draw.chance(0.2) else limits[:1])
        return {"name": self.name(kind), **policy, **extras, **given}

    def plain(self, kind: str, **given: Any) -> dict[str, Any]:
        """What every layer of Keras takes."""
        policy = {"dtype": self.policy} if self.policy else {}
        extras = {"activity_regularizer": keras.regularizers.L1L2(0.001, 0.002)} if self.draw.chance(0.06) else {}
        return {"name": self.name(kind), **policy, **extras, **given}

    # Parts.

    def dense(self, units: int | None = None) -> Any:
        draw = self.draw
        activation = draw.pick(("tanh", "sigmoid", "softplus", "gelu", "linear", "elu", "swish", "leaky"))
        if activation == "leaky":
            activation = keras.layers.LeakyReLU(0.2, **self.plain("leaky"))
        options = self.options("dense", activation=activation)
        if draw.chance(0.08):
            mode = draw.pick(("rows", "columns"))
            options["kernel_regularizer"] = keras.regularizers.OrthogonalRegularizer(0.02, mode)
        return keras.layers.Dense(units or draw.pick((3, 4, 6)), **options)

    def normalization(self) -> Any:
        draw = self.draw
        if draw.chance(0.1):
            return keras.layers.GroupNormalization(1, **self.plain("group_norm"))
        if draw.chance(0.1):
            return keras.layers.RMSNormalization(**self.plain("rms_norm"))
        if draw.chance(0.05):
            return keras.layers.UnitNormalization(**self.plain("unit_norm"))
        parts: dict[str, Any] = {"center": draw.chance(0.85), "scale": draw.chance(0.85)}
        if draw.chance(0.15):
            parts.update(gamma_regularizer="l2", beta_regularizer="l1", gamma_constraint=draw.pick((None, "non_neg")))
        if draw.chance(0.7):
            momentum, frozen = draw.pick((0.8, 0.9, 0.99)), draw.chance(0.15)
            parts.update(momentum=momentum, trainable=not frozen)
            return keras.layers.BatchNormalization(**self.plain("batch_norm", **parts))
        return keras.layers.LayerNormalization(**self.plain("layer_norm", **parts))

    def stack(self, x: Any, most: int = 3) -> Any:
        """A few layers that keep the rank."""
        for _ in range(int(self.draw.rng.integers(1, most + 1))):
            if self.draw.chance(0.2):
                x = self.normalization()(x)
            elif self.draw.chance(0.1):
                x = keras.layers.ActivityRegularization(l2=0.01, name=self.name("activity"), dtype=self.policy)(x)
            elif self.draw.chance(0.1):
                x = self.joined(x)
            elif self.draw.chance(0.15) and len(x.shape) == 2:
                x = self.submodel(x.shape[-1], unread=self.draw.chance(0.2))(x)
                x = x[0] if isinstance(x, list) else x
            elif self.draw.chance(0.1):
                x = self.unusual(x)
            else:
                layer = self.dense()
                if self.draw.chance(0.1):
                    layer.trainable = False
                x = layer(x)
        return x

    def joined(self, x: Any) -> Any:
        """What comes and something made of it, as one, by a layer or by operations."""
        layers, draw = keras.layers, self.draw
        other = layers.Dense(x.shape[-1], **self.options("beside", activation="tanh"))(x)
        kind = draw.pick(("Add", "Multiply", "Subtract", "Maximum", "Concatenate", "operators", "operations"))
        if kind == "operators":
            return x * 0.5 + other - 0.1
        if kind == "operations":
            return keras.ops.tanh(keras.ops.multiply(x, keras.ops.softmax(other)))
        return getattr(layers, kind)(**self.plain("joined"))([x, other])

    def unusual(self, x: Any) -> Any:
        """A layer with weights of its own kind."""
        layers, draw = keras.layers, self.draw
        kind = draw.pick(("PReLU", "EinsumDense", "SpectralNormalization", "Dense", "Rescaling", "Normalization"))
        if kind == "Rescaling":
            return layers.Rescaling(0.7, 0.1, **self.plain("rescaling"))(x)
        if kind == "Normalization":
            return layers.Normalization(mean=0.2, variance=1.5, **self.plain("normalization"))(x)
        if kind == "PReLU":
            return layers.PReLU(**self.plain("prelu"))(x)
        if kind == "EinsumDense":
            return layers.EinsumDense("...a,ab->...b", (*x.shape[1:-1], 4), bias_axes="b", **self.plain("einsum"))(x)
        if kind == "SpectralNormalization":
            inner = layers.Dense(4, activation="tanh", **self.plain("inner"))
            return layers.SpectralNormalization(inner, power_iterations=draw.pick((1, 2)), **self.plain("spectral"))(x)
        # Twice the same one.
        shared = layers.Dense(x.shape[-1], activation="tanh", **self.options("twice"))
        return shared(shared(x))

    def submodel(self, width: int, *, unread: bool = False) -> Any:
        """A nested model, at times frozen; maybe with a second output, for nobody."""
        kind = self.draw.pick(("Sequential", "Model"))
        entry = keras.Input((width,), name=self.name("entry"))
        if unread:
            x = self.dense()(entry)
            outputs = [self.dense()(x), self.normalization()(self.dense()(x))]
            model = keras.Model(entry, outputs, name=self.name("block"))
        elif kind == "Sequential":
            model = keras.Sequential([entry, self.dense(), self.normalization()], name=self.name("block"))
        else:
            model = keras.Model(entry, self.dense()(self.dense()(entry)), name=self.name("block"))
        if self.draw.chance(0.3):
            model.trainable = False
        return model

    def twins(self) -> Any:
        """What one model makes of two inputs, as one tensor, or how far apart they are."""
        layers, draw = keras.layers, self.draw
        width = draw.pick((3, 5))
        inner = self.submodel(width)
        one, other = inner(self.entry((width,))), inner(self.entry((width,)))
        kind = draw.pick(("Subtract", "Concatenate", "Dot", "distance"))
        if kind == "distance":
            apart = keras.ops.sum(keras.ops.square(one - other), axis=1, keepdims=True)
            return keras.ops.sqrt(keras.ops.maximum(apart, 1e-3))
        options = {"axes": 1, "normalize": draw.chance(0.5)} if kind == "Dot" else {}
        return getattr(layers, kind)(**self.plain("twins", **options))([one, other])

    def recurrent(self, sequences: bool) -> Any:
        draw = self.draw
        kind = draw.pick(("LSTM", "GRU", "SimpleRNN"))
        options = self.options(kind.lower(), return_sequences=sequences)
        if draw.chance(0.15):
            options["recurrent_regularizer"] = "l2"
        layer = getattr(keras.layers, kind)(draw.pick((3, 4)), **options)
        if draw.chance(0.3):
            layer.activity_regularizer = None
            merge = draw.pick(("concat", "sum", "ave"))
            return keras.layers.Bidirectional(layer, merge_mode=merge, name=self.name("bidirectional"))
        return layer

    # Branches.

    def entry(self, shape: Shape, dtype: str = "float32") -> Any:
        tensor = keras.Input(shape, dtype=dtype, name=self.name("input"))
        full = (self.rows, *shape)
        if dtype == "int32":
            words = self.draw.rng.integers(1, WORDS, full)
            # Rows end in zeros at random places, so that masks differ.
            ends = self.draw.rng.integers(1, shape[0] + 1, (self.rows, 1))
            data = np.where(np.arange(shape[0]) < ends, words, 0).astype("int32")
        else:
            data = self.draw.rng.standard_normal(full).astype("float32")
            # Both sides cast rows to the input's type.
            data = (4 * data).astype(self.draw.pick(("int64", "int8"))) if self.draw.chance(0.05) else data
            data = data.astype(self.draw.pick(("float64", "float16"))) if self.draw.chance(0.05) else data
        self.inputs.append((tensor, data))
        return tensor

    def vector(self) -> Any:
        return self.stack(self.entry((self.draw.pick((3, 5)),)))

    def image(self) -> Any:
        draw = self.draw
        x = self.entry((7, 6, draw.pick((1, 3))))
        for _ in range(int(draw.rng.integers(1, 3))):
            kind = draw.pick(("Conv2D", "Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose"))
            given = {"padding": "same", "strides": draw.pick((1, 1, 2)), "activation": draw.pick(("tanh", "softplus"))}
            if kind == "Conv2D" and given["strides"] == 1 and draw.chance(0.2):
                given["dilation_rate"] = draw.pick((2, (1, 2)))
            if kind == "DepthwiseConv2D":
                x = keras.layers.DepthwiseConv2D(3, **self.plain("depthwise", **given))(x)
            elif kind == "SeparableConv2D":
                x = keras.layers.SeparableConv2D(3, 3, **self.plain("separable", **given))(x)
            else:
                x = getattr(keras.layers, kind)(draw.pick((3, 4)), 3, **self.options("conv", **given))(x)
            if draw.chance(0.4):
                x = self.normalization()(x)
            if draw.chance(0.15):
                moved = draw.pick((keras.layers.ZeroPadding2D, keras.layers.UpSampling2D, keras.layers.Cropping2D))
                x = moved(((1, 0), (0, 1)) if moved is not keras.layers.UpSampling2D else 2, **self.plain("moved"))(x)
        if draw.chance(0.1):
            x = keras.layers.ConvLSTM1D(3, 2, **self.options("conv_lstm", padding="same"))(x)
            return keras.layers.Flatten(**self.plain("flat"))(x)
        if draw.chance(0.4):
            x = draw.pick((keras.layers.MaxPooling2D, keras.layers.AveragePooling2D))(
                2, padding="same", **self.plain("pool")
            )(x)
        return keras.layers.Flatten(**self.plain("flat"))(x) if draw.chance(0.5) else self.pooled(x, 2)

    def volume(self) -> Any:
        """Channels may come first."""
        draw = self.draw
        first = draw.chance(0.5)
        given = {"data_format": "channels_first" if first else "channels_last", "padding": draw.pick(("same", "valid"))}
        x = self.entry((2, 4, 5, 4) if first else (4, 5, 4, 2))
        x = keras.layers.Conv3D(4, 2, **self.options("volume", groups=draw.pick((1, 2)), **given))(x)
        if draw.chance(0.4):
            x = keras.layers.BatchNormalization(axis=1 if first else -1, momentum=0.8, **self.plain("batch_norm"))(x)
        pool = draw.pick((keras.layers.MaxPooling3D, keras.layers.AveragePooling3D))
        return keras.layers.Flatten(**self.plain("flat"))(pool(2, **self.plain("pool", **given))(x))

    def pooled(self, x: Any, rank: int) -> Any:
        kind = self.draw.pick(("GlobalAveragePooling", "GlobalMaxPooling"))
        return getattr(keras.layers, f"{kind}{rank}D")(**self.plain("pooled"))(x)

    def sequence(self) -> Any:
        """A tensor of steps, masked or not."""
        draw = self.draw
        if draw.chance(0.6):
            words = self.entry((STEPS,), "int32")
            extras = {"embeddings_regularizer": "l2"} if draw.chance(0.15) else {}
            extras.update({"embeddings_constraint": keras.constraints.MaxNorm(0.1, axis=1)} if draw.chance(0.1) else {})
            mask = draw.chance(0.6)
            extras.update({"trainable": False} if draw.chance(0.1) else {})
            x = keras.layers.Embedding(WORDS, 4, **self.plain("embedding", mask_zero=mask, **extras))(words)
        else:
            x = self.entry((STEPS, 3))
            if draw.chance(0.3):
                x = keras.layers.Masking(**self.plain("masking"))(x)
        if draw.chance(0.3):
            x = keras.layers.Conv1D(4, 3, **self.options("conv", padding="same", activation="tanh"))(x)
        if draw.chance(0.15):
            options = self.plain("attention", use_bias=draw.chance(0.7))
            x = keras.layers.MultiHeadAttention(2, 3, **options)(x, x, use_causal_mask=draw.chance(0.3))
        elif draw.chance(0.1):
            kind = draw.pick(("Attention", "AdditiveAttention", "GroupQueryAttention"))
            if kind == "GroupQueryAttention":
                x = keras.layers.GroupQueryAttention(2, 2, 1, **self.plain("attention"))(x, x)
            else:
                x = getattr(keras.layers, kind)(use_scale=draw.chance(0.5), **self.plain("attention"))([x, x])
        elif draw.chance(0.1):
            inner = self.submodel(x.shape[-1]) if draw.chance(0.5) else self.dense()
            x = keras.layers.TimeDistributed(inner, **self.plain("steps"))(x)
        elif draw.chance(0.1):
            cells = [getattr(keras.layers, draw.pick(("LSTMCell", "GRUCell", "SimpleRNNCell"))) for _ in range(2)]
            made = [cell(3, **self.plain("cell")) for cell in cells]
            given = {"return_sequences": True, "unroll": draw.chance(0.2), "go_backwards": draw.chance(0.2)}
            x = keras.layers.RNN(made if draw.chance(0.6) else made[0], **self.plain("rnn", **given))(x)
        return self.recurrent(True)(x) if draw.chance(0.6) else x

    def branch(self) -> Any:
        kind = self.draw.pick(("vector", "vector", "image", "sequence", "sequence"))
        if self.draw.chance(0.15):
            kind = self.draw.pick(("twins", "volume"))
        if kind != "sequence":
            return getattr(self, kind)()
        x = self.sequence()
        return self.recurrent(False)(x) if self.draw.chance(0.6) else self.pooled(x, 1)

    # The whole.

    def head(self, x: Any) -> tuple[Any, Head]:
        draw = self.draw
        kind = draw.pick(KINDS)
        units = 1 if kind == "binary" or (kind in ("real", "positive") and draw.chance(0.5)) else 3
        options = self.options("out", activation=ACTIVATIONS.get(kind))
        made = keras.layers.Dense(units, **options)(x)
        if self.policy:
            # Losses want predictions in float32.
            made = keras.layers.Activation("linear", dtype="float32", name=self.name("out"))(made)
        name = made._keras_history.operation.name
        masked = getattr(made, "_keras_mask", None) is not None
        return made, Head(name, kind, tuple(made.shape[1:]), masked)

    def trunk(self) -> list[Any]:
        """Tensors that outputs are made of."""
        draw = self.draw
        if draw.chance(0.25):
            return [self.sequence()]
        branches = [self.branch() for _ in range(draw.pick((1, 1, 2)))]
        if draw.chance(0.2):
            shared, after = self.normalization() if draw.chance(0.5) else self.dense(4), self.dense(4)
            width = 4
            both = [keras.layers.Dense(width, **self.plain("to"))(b) for b in (branches * 2)[:2]]
            branches = [keras.layers.Average(**self.plain("mean"))([after(shared(b)) for b in both])]
        if len(branches) > 1:
            return [keras.layers.Concatenate(**self.plain("both"))(branches), *branches]
        return branches

    def sequential(self) -> Made:
        """A Sequential as the whole model."""
        draw = self.draw
        entry = self.entry((draw.pick((3, 5)),))
        layers = [draw.pick((self.dense, self.dense, self.normalization))() for _ in range(draw.pick((1, 2, 3)))]
        if draw.chance(0.2):
            layers.append(self.submodel(keras.Sequential([entry, *layers]).output_shape[-1]))
        model = keras.Sequential([entry, *layers], name="random")
        kind = draw.pick(KINDS)
        units = 1 if kind == "binary" else 3
        # Losses want predictions in float32.
        model.add(keras.layers.Dense(units, **self.options("out", dtype="float32", activation=ACTIVATIONS.get(kind))))
        return Made(model, [Head(model.layers[-1].name, kind, (units,), False)], [self.inputs[0][1]], "one")

    def make(self) -> Made:
        draw = self.draw
        if draw.chance(0.07):
            return self.sequential()
        trunk = self.trunk()
        count = draw.pick((1, 1, 1, 2, 2, 3))
        # The first comes from the trunk whole, so that no input hangs loose.
        found = [self.head(draw.pick(trunk) if place else trunk[0]) for place in range(count)]
        tensors, heads = [t for t, _ in found], [h for _, h in found]
        # Keras on torch takes one output in a list for the output itself, and labels in a list not for the labels.
        structure = draw.pick(("one", "one", "one", "dict") if count == 1 else ("list", "list", "dict", "nested"))
        outputs: Any = tensors[0] if structure == "one" else tensors
        nest = None
        if structure == "dict":
            outputs = {h.name: t for h, t in zip(heads, tensors, strict=True)}
            order = sorted(range(count), key=lambda place: heads[place].name)
            heads = [heads[place] for place in order]
        if structure == "nested":
            first, *rest = [head.name for head in heads]
            below: Any = draw.pick((rest, {f"of_{place}": name for place, name in enumerate(rest)}))
            nest = draw.pick(({"first": first, "rest": below}, [first, below], {"all": [first, *rest]}))
            outputs = _renamed(nest, {h.name: t for h, t in zip(heads, tensors, strict=True)})
        inputs = [tensor for tensor, _ in self.inputs]
        model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="random")
        return Made(model, heads, [data for _, data in self.inputs], structure, nest)


def random_trained_model(draw: Draw, rows: int, policy: str | None) -> Made:
    """A model and `rows` rows for its inputs; its layers have the policy."""
    return ModelMaker(draw, rows, policy).make()
