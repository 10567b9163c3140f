"""Random graphs as tf.keras and Keras 2 on several backends build them: models cut out of others, layers shared between
models, states and masks as arguments, wrappers around models, functions of TensorFlow.

Runs under Python 3.6 too, with the Keras that `make_structures.py` passes. A step that this Keras refuses is replaced
by another one.
"""

import numpy as np
from structure_functions import function_of

WIDTHS = (2, 3, 4, 6)
#: Names that mean something elsewhere, or that no identifier is.
ODD_NAMES = ("a_b", "bi-lstm", "blk/conv", "Conv4.1", "x.y/z", "lstm", "model", "layers", "cell", "self", "dense_1")
KINDS = (
    *(("vector", "sequence"), ("sequence", "ids"), ("image", "vector"), ("open", "ids"), ("ids",), ("sequence",)),
    *(("vector",), ("image",), ("openids",), ("ids", "ids"), ("video",), ("padded", "vector")),
)
#: A tensor of more elements in one row isn't used on.
_MOST_ELEMENTS = 600


class UnfitError(Exception):
    """There is no tensor for what was drawn."""


class Pool:
    """tensors: those made so far. again: what can be called again, with the inputs of a model and the shape it had."""

    def __init__(self):
        self.tensors = []
        self.again = []
        self.inputs = []


class StructureMaker:
    """Grows one random model of `keras`; `tf` is TensorFlow where the Keras is its own, else None."""

    def __init__(self, keras, seed, tf=None):
        self.keras, self.layers, self.tf = keras, keras.layers, tf
        self.random = np.random.RandomState(seed)
        self.count = 0
        self.rows = 3 if self.flag(0.08) else None
        self.share_of_functions = self.pick((0.0, 0.1, 0.4)) if tf else 0.0
        #: Inputs that masks made necessary.
        self.more_inputs = []
        self.kept = []

    # Choices, and what tensors are.

    def flag(self, chance=0.5):
        return bool(self.random.rand() < chance)

    def pick(self, choices):
        return choices[self.random.randint(len(choices))]

    def options(self):
        """A name, mostly; and rarely frozen."""
        self.count += 1
        name = self.pick(ODD_NAMES) if self.flag(0.12) else "n"
        options = {"name": f"{name}{self.count}"} if self.flag(0.4) else {}
        return {**options, "trainable": False} if self.flag(0.07) else options

    def shape(self, tensor):
        return tuple(tensor.shape) if self.tf else tuple(self.keras.backend.int_shape(tensor))

    def dtype(self, tensor):
        return tensor.dtype.name if self.tf else self.keras.backend.dtype(tensor)

    def some(self, pool, rank=None):
        """A tensor of floats, often the last."""
        fit = [
            t
            for t in pool.tensors
            if self.dtype(t) == "float32" and self.shape(t)[-1] and rank in (None, len(self.shape(t)))
        ]
        if not fit:
            raise UnfitError
        return fit[-1] if self.flag(0.35) else self.pick(fit)

    def twins(self, pool, tensor):
        """Tensors of the same shape. Two unknown lengths may differ once data comes."""
        shape = self.shape(tensor)[1:]
        if None in shape:
            return [tensor]
        return [t for t in pool.tensors if self.shape(t)[1:] == shape and self.dtype(t) == self.dtype(tensor)]

    def input(self, shape, dtype="float32", **options):
        rows = {"batch_shape": (self.rows, *shape)} if self.rows else {"shape": shape}
        return self.layers.Input(dtype=dtype, **rows, **options)

    # Layers.

    def activation(self):
        names = ("relu", "tanh", "sigmoid", "linear", "elu", "selu", "softplus", "softsign", "softmax", "hard_sigmoid")
        return self.pick((*names, None, *(("swish", "gelu", self.layers.ReLU(2.0)) if self.tf else ())))

    def recurrent(self, kind=None, units=None, **options):
        make, kind = self.layers, kind or self.pick(("SimpleRNN", "GRU", "LSTM"))
        options.setdefault("return_sequences", self.flag())
        if self.flag(0.2):
            options["go_backwards"] = True
        inner = {"units": units or self.random.randint(1, 5), "use_bias": self.flag(0.8)}
        if kind == "GRU" and self.flag(0.4):
            inner["reset_after"] = self.flag()
        if kind != "SimpleRNN" and self.flag(0.3):
            inner["recurrent_activation"] = self.pick(("sigmoid", "hard_sigmoid"))
        if units is None and self.flag(0.15):
            cell = getattr(make, f"{kind}Cell")
            return make.RNN(cell(**inner) if self.flag() else [cell(**inner), make.GRUCell(2)], **options)
        return getattr(make, kind)(**inner, **options)

    def layer(self, shape):
        """A layer for a tensor of floats of `shape`."""
        make, options = self.layers, self.options()
        units, is_open = self.pick(WIDTHS), None in shape[1:]
        short = any(size is not None and size < 3 for size in shape[1:-1])
        choices = [
            lambda: make.Dense(units, activation=self.activation(), **options),
            lambda: make.Activation(self.pick(("tanh", "softplus", "softmax")), **options),
            lambda: make.BatchNormalization(scale=self.flag(), **options),
            lambda: make.Dropout(0.3, **options),
            lambda: make.LeakyReLU(**options),
        ]
        if not is_open:
            choices += [lambda: make.PReLU(**options), lambda: make.Flatten(**options)]
        if self.tf:
            choices += [lambda: make.LayerNormalization(**options), lambda: make.Softmax(**options)]
        if len(shape) == 2:
            choices += [lambda: make.RepeatVector(3, **options), lambda: make.Reshape((-1, 1), **options)]
        if len(shape) == 3:
            choices += [lambda: self.recurrent(**options)] * 3
            choices += [
                lambda: make.Bidirectional(self.recurrent(), merge_mode=self.pick(("concat", "sum")), **options),
                lambda: make.Conv1D(units, 3, padding=self.pick(("same", "causal")), **options),
                lambda: make.GlobalMaxPooling1D(**options),
                lambda: make.GlobalAveragePooling1D(**options),
                lambda: make.ZeroPadding1D((1, 2), **options),
                lambda: make.Masking(self.pick((0.0, 0.5)), **options),
            ]
            if not is_open:
                choices += [lambda: make.Permute((2, 1), **options)]
        if len(shape) == 4:
            choices += [
                lambda: make.Conv2D(units, self.pick((1, 2, 3)), padding="same", **options),
                lambda: make.Conv2DTranspose(units, 3, strides=2, padding="same", **options),
                lambda: make.SeparableConv2D(units, 3, padding="same", **options),
                lambda: make.GlobalAveragePooling2D(**options),
                lambda: make.UpSampling2D(2, **options),
            ]
            if not is_open and not short:
                choices += [lambda: make.MaxPooling2D(2, strides=self.pick((1, 2)), padding="same", **options)]
        if len(shape) > 2:
            choices += [lambda: make.TimeDistributed(self.inside(shape[:1] + shape[2:]), **options)] * 2
        return self.pick(choices)()

    def inside(self, shape):
        """What a TimeDistributed holds: a layer, or a model."""
        if self.flag(0.3) and len(shape) > 1 and None not in shape[1:]:
            return self.sequential(shape)
        return self.layer(shape)

    def sequential(self, shape):
        """A Sequential with an input; or in tf.keras without, which is built when it is called."""
        model = self.keras.models.Sequential(name=f"s{self.count}") if self.flag() else self.keras.models.Sequential()
        if not self.tf or self.flag(0.7):
            model.add(self.layers.Dense(self.pick(WIDTHS), input_shape=shape[1:]))
            model.add(self.layer(tuple(model.output_shape)))
        else:
            model.add(self.layers.Dense(self.pick(WIDTHS), activation=self.activation()))
        return model

    # Models in models.

    def call_model(self, pool, depth):
        tensor = self.some(pool)
        shape = self.shape(tensor)
        if self.flag(0.4):
            model, takes = self.sequential(shape), None
        else:
            model, takes = self.functional(shape, depth)
        pool.again.append((model, takes, shape))
        return model(tensor if takes is None else self.given(takes, pool, tensor))

    def functional(self, shape, depth):
        """A model and its inputs, which are those in a list or dict where it has several."""
        inside, outside = Pool(), self.more_inputs
        self.more_inputs = []
        inside.tensors.append(self.input(shape[1:]))
        if self.flag(0.3):
            inside.tensors.append(self.input((self.pick(WIDTHS),)))
        inputs = list(inside.tensors)
        for _ in range(self.random.randint(1, 5)):
            self.grow(inside, depth - 1)
        takes = self.grouped(inputs + self.more_inputs)
        self.more_inputs = outside
        outputs = [inside.tensors[-1], *(self.pick(inside.tensors) for _ in range(self.random.randint(3)))]
        model = self.keras.models.Model(takes, self.grouped(outputs, named=False))
        # Alive, so that no other has its identity.
        self.kept.append(model)
        return model, takes

    def grouped(self, tensors, named=True):
        """One tensor as it is, else a list, or in tf.keras a dict."""
        if len(tensors) == 1 and self.flag(0.7):
            return tensors[0]
        if not self.tf or self.flag():
            return tensors
        if named:
            return {tensor.name.split(":")[0]: tensor for tensor in tensors}
        return {f"{'zyx'[i % 3]}{i}": tensor for i, tensor in enumerate(tensors)}

    def given(self, takes, pool, first):
        """Tensors of the pool for the inputs of a model."""
        if isinstance(takes, dict):
            return {name: self.given(takes[name], pool, first) for name in sorted(takes)}
        if isinstance(takes, list):
            return [self.given(one, pool, first) for one in takes]
        fit = [first] if self.fits(takes, first) else [t for t in pool.tensors if self.fits(takes, t)]
        if not fit:
            raise UnfitError
        return self.pick(fit)

    def fits(self, wanted, tensor):
        sizes, got = self.shape(wanted), self.shape(tensor)
        if len(sizes) != len(got) or self.dtype(wanted) != self.dtype(tensor):
            return False
        return all(size is None or size == got[axis] for axis, size in enumerate(sizes))

    def cut_out(self, pool):
        """A model of tensors that are there already, called on another: their layers lie in both models."""
        start, end = self.pick(pool.inputs), self.pick(pool.tensors)
        model = self.keras.models.Model(start, end)
        return model(self.pick([t for t in pool.tensors if self.fits(start, t)]))

    def call_again(self, pool):
        called, takes, shape = self.pick(pool.again)
        if takes is not None:
            return called(self.given(takes, pool, self.pick(pool.tensors)))
        fit = [t for t in pool.tensors if self.shape(t)[1:] == shape[1:] and self.dtype(t) == "float32"]
        return called(self.pick(fit))

    # Calls with several tensors.

    def merge(self, pool):
        first = self.some(pool)
        twins = self.twins(pool, first)
        kind = self.pick(("Add", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Subtract", "Dot"))
        if kind == "Dot":
            return self.layers.Dot(axes=-1, normalize=self.flag(0.3))([first, self.pick(twins)])
        others = [self.pick(twins) for _ in range(1 if kind == "Subtract" else self.random.randint(1, 3))]
        return getattr(self.layers, kind)(**self.options())([first, *others])

    def state(self, pool, units):
        vectors = [t for t in pool.tensors if len(self.shape(t)) == 2 and self.dtype(t) == "float32"]
        if not vectors:
            raise UnfitError
        vector = self.pick(vectors)
        return vector if self.shape(vector)[1] == units else self.layers.Dense(units)(vector)

    def mask(self, pool, steps):
        known = [t for t in pool.tensors if self.dtype(t) == "bool" and self.shape(t)[1:] == (steps,)]
        if known:
            return self.pick(known)
        if steps is None:
            raise UnfitError
        made = self.input((steps,), dtype="bool")
        self.more_inputs.append(made)
        pool.tensors.append(made)
        return made

    def special(self, pool):
        """Recurrent layers with states from elsewhere, masks as arguments, attention, embeddings."""
        make, kind = self.layers, self.random.randint(5 if self.tf else 3)
        if kind == 0:
            ids = [t for t in pool.tensors if self.dtype(t) == "int32"]
            if not ids:
                raise UnfitError
            return make.Embedding(7, self.pick(WIDTHS), mask_zero=self.flag(), **self.options())(self.pick(ids))
        sequence = self.some(pool, rank=3)
        if kind == 1:
            name, units = self.pick(("LSTM", "GRU", "SimpleRNN")), self.random.randint(1, 5)
            if self.flag():
                states = list(self.recurrent(name, units, return_state=True)(sequence)[1:])
            else:
                states = [self.state(pool, units) for _ in range(2 if name == "LSTM" else 1)]
            decoder = self.recurrent(name, units, **self.options())
            target = self.some(pool, rank=3)
            return decoder([target, *states]) if self.flag(0.3) else decoder(target, initial_state=states)
        if kind == 2:
            return self.recurrent(return_state=True, **self.options())(sequence)
        if kind == 3:
            return self.recurrent(**self.options())(sequence, mask=self.mask(pool, self.shape(sequence)[1]))
        wide = self.shape(sequence)[-1]
        other = self.pick([t for t in pool.tensors if len(self.shape(t)) == 3 and self.shape(t)[-1] == wide])
        if self.flag():
            attention = make.MultiHeadAttention(2, self.random.randint(1, 4), **self.options())
            return attention(sequence, value=other, return_attention_scores=self.flag(0.3))
        return self.pick((make.Attention, make.AdditiveAttention))()([sequence, other])

    # The graph.

    def grow(self, pool, depth):
        """Adds one call to the pool, unless this Keras refuses six in a row."""
        for _ in range(6):
            before = len(pool.tensors)
            try:
                for tensor in self.flat(self.step(pool, depth))[:4]:
                    sizes = self.shape(tensor)[1:]
                    if 0 in sizes:
                        raise UnfitError
                    if np.prod([size or 4 for size in sizes]) <= _MOST_ELEMENTS:
                        pool.tensors.append(tensor)
            except Exception:
                del pool.tensors[before:]
            else:
                return

    def step(self, pool, depth):
        kind = self.random.rand()
        if kind < 0.15:
            return self.merge(pool)
        if kind < 0.3 and pool.again:
            return self.call_again(pool)
        if kind < 0.42 and depth > 0:
            return self.call_model(pool, depth)
        if kind < 0.47 and pool.inputs:
            return self.cut_out(pool)
        if kind < 0.6:
            return self.special(pool)
        tensor = self.some(pool)
        shape = self.shape(tensor)
        if kind < 0.6 + self.share_of_functions:
            return function_of(self.tf, self.random, tensor, self.pick(self.twins(pool, tensor)))
        layer = self.layer(shape)
        pool.again.append((layer, None, shape))
        quiet = self.tf and type(layer).__name__ in ("BatchNormalization", "Dropout") and self.flag(0.2)
        return layer(tensor, training=False) if quiet else layer(tensor)

    def flat(self, outputs):
        if isinstance(outputs, dict):
            return [tensor for key in sorted(outputs) for tensor in self.flat(outputs[key])]
        if isinstance(outputs, (list, tuple)):
            return [tensor for output in outputs for tensor in self.flat(output)]
        return [outputs]

    def model(self):
        """The whole model."""
        pool = Pool()
        for kind in self.pick(KINDS):
            width = self.pick(WIDTHS)
            shape = {
                **{"vector": (width,), "sequence": (5, width), "padded": (5, width), "open": (None, width)},
                **{"image": (7, 6, width), "ids": (5,), "openids": (None,), "video": (3, 4, 4, 2)},
            }[kind]
            tensor = self.input(shape, dtype="int32" if "ids" in kind else "float32")
            pool.inputs.append(tensor)
            pool.tensors.append(tensor)
            if "ids" in kind:
                pool.tensors.append(self.layers.Embedding(7, width, mask_zero=self.flag(0.6))(tensor))
            if kind == "padded":
                pool.tensors.append(self.layers.Masking(0.0)(tensor))
        for _ in range(self.random.randint(3, 12)):
            self.grow(pool, depth=2)
        # Keras on several backends takes each output once, and no input as one.
        made = [t for t in pool.tensors if self.dtype(t) == "float32" and not any(t is one for one in pool.inputs)]
        if not made:
            raise UnfitError
        outputs = [made[-1], *(t for t in made[:-1] if self.flag(0.2))]
        return self.keras.models.Model(self.grouped(pool.inputs + self.more_inputs), self.grouped(outputs, named=False))
