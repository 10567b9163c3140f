"""Padding of sequences is allowed if masks make it exact, and refused with the name of the layer that depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers, load_model
from layergraph.execution.padding_check import UnpaddableError, check_padding
from layergraph.execution.sequence_padding import SequencePadding
from layergraph.functional.tensor import Tensor

WORDS = 12


def words(name: str = "words") -> Tensor:
    return Input((None,), dtype="int32", name=name)


def embedded(entry: Tensor, *, masked: bool = True) -> Tensor:
    return layers.Embedding(WORDS, 4, mask_zero=masked)(entry)


def last_state(entry: Tensor) -> Tensor:
    return layers.Dense(2)(layers.LSTM(3)(embedded(entry)))


def both_ways(entry: Tensor) -> Tensor:
    return layers.Bidirectional(layers.GRU(3, return_sequences=True))(embedded(entry))


def backwards(entry: Tensor) -> Tensor:
    return layers.SimpleRNN(3, go_backwards=True)(layers.LayerNormalization()(embedded(entry)))


def attention(entry: Tensor) -> Tensor:
    x = embedded(entry)
    x = layers.LayerNormalization()(layers.add([x, layers.MultiHeadAttention(2, 3)(x, x)]))
    return layers.GlobalAveragePooling1D()(x)


PADDED = [
    (last_state, SequencePadding({"words": 0}, {}, equal_lengths=False, unmasked=frozenset())),
    (both_ways, SequencePadding({"words": 0}, {"bidirectional": "words"}, equal_lengths=False, unmasked=frozenset())),
    (backwards, SequencePadding({"words": 0}, {}, equal_lengths=False, unmasked=frozenset())),
    (attention, SequencePadding({"words": 0}, {}, equal_lengths=False, unmasked=frozenset({"words"}))),
]


@pytest.mark.parametrize(("make", "expected"), PADDED)
def test_masks_that_reach_all_readers_make_padding_exact(make: Any, expected: SequencePadding) -> None:
    entry = words()
    model = Model(entry, make(entry))
    lengths = dict(zip(model.output_names, expected.lengths.values(), strict=False))
    assert check_padding(model.plan()) == SequencePadding(
        expected.fills, lengths, equal_lengths=expected.equal_lengths, unmasked=expected.unmasked
    )


def test_a_row_without_any_word_isnt_padded_where_attention_would_average_all_steps() -> None:
    entry = words()
    attended = layers.Attention()([embedded(entry, masked=False), embedded(entry)])
    padding = check_padding(Model(entry, attended).plan())
    assert padding.group({"words": np.ones((1, 3), np.int32)}) is not None
    assert padding.group({"words": np.zeros((1, 3), np.int32)}) is None


def test_masking_is_padded_with_its_value() -> None:
    entry = Input((None, 3), name="steps")
    padding = check_padding(Model(entry, layers.LSTM(2)(layers.Masking(-1.0)(entry))).plan())
    assert padding.fills == {"steps": -1.0}


def test_two_texts_have_lengths_of_their_own() -> None:
    left, right, shared = words("left"), words("right"), layers.LSTM(3)
    embedding = layers.Embedding(WORDS, 4, mask_zero=True)
    model = Model([left, right], layers.concatenate([shared(embedding(left)), shared(embedding(right))]))
    assert not check_padding(model.plan()).equal_lengths


def test_sequences_that_are_added_are_of_one_length() -> None:
    left, right = words("left"), words("right")
    model = Model([left, right], layers.GRU(3)(layers.add([embedded(left), embedded(right)])))
    padding = check_padding(model.plan())
    assert padding.equal_lengths
    assert padding.group({"left": np.ones((1, 5), np.int32), "right": np.ones((1, 5), np.int32)}) == (3, 3)
    assert padding.group({"left": np.ones((1, 5), np.int32), "right": np.ones((1, 6), np.int32)}) is None


def unmasked_recurrent(entry: Tensor) -> Tensor:
    return layers.LSTM(3, name="reader")(embedded(entry, masked=False))


def pooled(entry: Tensor) -> Tensor:
    return layers.GlobalMaxPooling1D(name="reader")(embedded(entry))


def convolved(entry: Tensor) -> Tensor:
    return layers.Conv1D(3, 3, padding="same", name="reader")(embedded(entry))


def reversed_sequence(entry: Tensor) -> Tensor:
    return layers.GRU(3, go_backwards=True, return_sequences=True, name="reader")(embedded(entry))


def doubled(entry: Tensor) -> Tensor:
    return layers.UpSampling1D(2, name="reader")(embedded(entry))


def last_step(entry: Tensor) -> Tensor:
    return embedded(entry)[:, -1]


def mask_that_hides_nothing(entry: Tensor) -> Tensor:
    """In Keras 3, a timestep of several merged inputs is valid if any mask shows it."""
    return layers.LSTM(2)(layers.Concatenate(name="reader")([embedded(entry), embedded(entry, masked=False)]))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unmasked_recurrent, "layer 'reader' (LSTM) uses timesteps that no mask hides"),
        (pooled, "layer 'reader' (GlobalMaxPooling1D) uses timesteps that no mask hides"),
        (convolved, "layer 'reader' (Conv1D) gives other numbers for a timestep if padding follows"),
        (reversed_sequence, "layer 'reader' (GRU) gives other numbers for a timestep if padding follows"),
        (doubled, "layer 'reader' (UpSampling1D) changes the number of timesteps, or moves them"),
        (last_step, "uses timesteps that no mask hides"),
        (mask_that_hides_nothing, "the mask of layer 'reader' (Concatenate) doesn't hide padding"),
    ],
)
def test_what_looks_behind_the_last_step_is_refused(make: Any, reason: str) -> None:
    entry = words()
    with pytest.raises(UnpaddableError) as refused:
        check_padding(Model(entry, make(entry)).plan())
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((5,), "int32", "no input has sequences of variable length"),
        ((None, None), "float32", "expected no open axis behind axis 1"),
        ((None,), "string", "takes text"),
    ],
)
def test_inputs_without_sequences_are_refused(shape: Any, dtype: str, reason: str) -> None:
    entry = Input(shape, dtype=dtype)
    with pytest.raises(UnpaddableError, match=reason):
        check_padding(Model(entry, entry).plan())


def test_a_largest_number_over_time_isnt_taken_for_exact_by_chance() -> None:
    """Padded zeros change the maximum of negative numbers only."""
    entry = Input((None, 2), dtype="int32")
    with pytest.raises(UnpaddableError):
        check_padding(Model(entry, layers.GlobalMaxPooling1D()(entry)).plan())


def test_requests_are_grouped_by_powers_of_two() -> None:
    padding = SequencePadding({"x": 0}, {}, equal_lengths=False, unmasked=frozenset({"x"}))

    def group(*values: int) -> Any:
        return padding.group({"x": np.array([values], np.int32)})

    assert group(*[1] * 5) == group(*[1] * 8) != group(*[1] * 9)
    assert group() is None
    assert group(1, 0, 2) is None  # A step is masked already.


# Random models.


class Maker:
    """A random model of layers, some of which pass masks through, some use them, and some use all timesteps."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)  # For the initial weights.

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def source(self, name: str) -> tuple[Tensor, Tensor]:
        kind = self.pick("words", "words", "unmasked words", "masked steps", "steps")
        if kind.endswith("words"):
            entry = Input((None,), dtype=self.pick("int32", "int64", "float32"), name=name)
            return entry, embedded(entry, masked=kind == "words")
        entry = Input((None, 4), name=name)
        return entry, layers.Masking(self.pick(0.0, -1.0, 0.1))(entry) if kind == "masked steps" else entry

    def recurrent(self, x: Tensor, *, sequences: bool) -> Tensor:
        kind = self.pick(layers.LSTM, layers.GRU, layers.SimpleRNN)
        # No unbounded activation: such a layer amplifies rounding errors, with and without padding.
        layer = kind(4, return_sequences=sequences, go_backwards=self.chance(0.1))
        return layers.Bidirectional(layer, merge_mode=self.pick("sum", "ave"))(x) if self.chance(0.3) else layer(x)

    def step(self, x: Tensor) -> Tensor:
        makers: list[Any] = [
            lambda: layers.Dense(4, activation=self.pick("relu", "softmax", "tanh"))(x),
            lambda: layers.LayerNormalization()(x),
            lambda: layers.TimeDistributed(layers.Dense(4))(x),
            lambda: layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=self.chance(0.3)),
            lambda: layers.Attention()([x, x]),
            lambda: self.recurrent(x, sequences=True),
            lambda: self.recurrent(x, sequences=True),
            lambda: layers.add([x, layers.Dense(4)(x)]),
            lambda: layers.Conv1D(4, self.pick(1, 3), padding=self.pick("same", "causal"))(x),
            lambda: layers.BatchNormalization()(x),
        ]
        return self.pick(*makers)()

    def pool(self, x: Tensor) -> Tensor:
        kind = self.pick("average", "largest", "state", "state")
        if kind == "state":
            return self.recurrent(x, sequences=False)
        return (layers.GlobalAveragePooling1D if kind == "average" else layers.GlobalMaxPooling1D)()(x)

    def model(self) -> Model:
        sources = [self.source(f"input{number}") for number in range(self.pick(1, 1, 2))]
        entries, ends = [entry for entry, _ in sources], [end for _, end in sources]
        for number, end in enumerate(ends):
            for _ in range(int(self.rng.integers(3))):
                end = self.step(end)
            ends[number] = end
        if len(ends) == 2 and self.chance(0.5):
            ends = [self.pick(layers.add, layers.Attention())(ends)]
        outputs = [layers.Dense(3)(end) for end in ends if self.chance(0.3)]
        outputs.append(layers.concatenate([layers.Dense(2)(self.pool(end)) for end in ends] * 2))
        model = Model(entries, outputs)
        for weight in model.weights:
            with torch.no_grad():
                if "embeddings" in weight.name:
                    weight.value[0] = self.pick(50.0, -50.0, 3.0)  # What padding is embedded as shows.
                elif "bias" in weight.name:
                    weight.value.copy_(torch.from_numpy(self.rng.standard_normal(weight.shape).astype("float32")))
        return model

    def request(self, model: Model, padding: SequencePadding) -> dict[str, Any]:
        rows, length = self.pick(1, 2), int(self.rng.integers(1, 30))
        masked = self.pick(0.0, 0.0, 0.2, 1.0)
        request = {}
        for spec in model.input_specs:
            if not padding.equal_lengths:
                length = int(self.rng.integers(1, 30))
            array = self.rng.standard_normal((rows, length, *spec.shape[2:]))
            if array.ndim == 2:
                array = self.rng.integers(1, WORDS, array.shape)
            array[self.rng.random((rows, length)) < masked] = padding.fills[spec.name]
            request[spec.name] = array.astype(spec.dtype)
        return request


def test_random_models_give_the_same_numbers_padded_as_alone() -> None:
    paddable = 0
    for seed in range(30):
        maker = Maker(seed)
        plan = (model := maker.model()).plan()
        try:
            padding = check_padding(plan)
        except UnpaddableError:
            continue
        requests = [maker.request(model, padding) for _ in range(8)]
        requests = [request for request in requests if padding.group(request) is not None]
        paddable += len(requests) > 1
        start, together = 0, plan.run(padding.join(requests)) if requests else {}
        for request in requests:
            stop = start + len(next(iter(request.values())))
            own = padding.cut({name: result[start:stop] for name, result in together.items()}, request)
            start = stop
            for name, expected in plan.run(request).items():
                np.testing.assert_allclose(own[name], expected, rtol=1e-5, atol=1e-5, err_msg=f"seed {seed}")
    assert paddable > 6


def test_masks_that_are_calculated_are_seen(tmp_path: Path) -> None:
    entry = keras.Input((None,), dtype="int32", name="words")
    shown = keras.ops.not_equal(entry, 0)
    x = keras.layers.Embedding(WORDS, 4)(entry)
    attended = keras.layers.MultiHeadAttention(2, 3)(x, x, query_mask=shown, value_mask=shown)
    keras.Model(entry, [keras.layers.LSTM(2)(x, mask=shown), attended]).save(tmp_path / "model.keras")
    padding = check_padding(load_model(tmp_path / "model.keras").plan())
    assert (padding.fills, padding.unmasked) == ({"words": 0}, {"words"})


def test_masks_that_hide_more_than_padding_are_refused_where_that_matters() -> None:
    """Attention averages all timesteps if a mask hides all of them, as it does here for small numbers."""
    entry = words()
    shown = entry > 5
    x = embedded(entry, masked=False)
    assert check_padding(Model(entry, layers.LSTM(2)(x, mask=shown)).plan()).unmasked == frozenset()
    with pytest.raises(UnpaddableError, match="MultiHeadAttention"):
        check_padding(Model(entry, layers.MultiHeadAttention(2, 3)(x, x, value_mask=shown)).plan())
