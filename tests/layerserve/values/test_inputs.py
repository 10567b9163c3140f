from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layerserve import InvalidArgument, InvalidTensor, MissingInput, TensorSpec, UnknownInput, UnknownOutput
from layerserve.values.inputs import encode_inputs, match
from layerserve.values.tensors import decode

ONE = [TensorSpec("x", (None, 3), "float32")]
TWO = [TensorSpec("left", (None, 2), "float32"), TensorSpec("right", (None,), "string")]


def sent(inputs, specs):
    return {tensor.name: decode(tensor).tolist() for tensor in encode_inputs(inputs, specs)}


@pytest.mark.parametrize(
    "inputs",
    [
        [[1, 2, 3]],
        np.array([[1, 2, 3]]),
        [np.array([[1.0, 2.0, 3.0]])],  # a list of inputs
        [np.array([1.0, 2.0, 3.0])],  # a list of rows
        ((1, 2, 3),),
        {"x": [[1, 2, 3]]},
    ],
)
def test_the_only_input_may_come_in_any_form(inputs):
    assert sent(inputs, ONE) == {"x": [[1.0, 2.0, 3.0]]}


@pytest.mark.parametrize("inputs", [[[[1, 2]], ["a"]], ([[1, 2]], ["a"]), {"right": ["a"], "left": [[1, 2]]}])
def test_several_inputs_come_by_position_or_name(inputs):
    arrays = sent(inputs, TWO)
    assert arrays["left"] == [[1.0, 2.0]]
    assert arrays["right"] == [b"a"]


class Frame:
    """As DataFrames of pandas and Polars are, neither of which is needed."""

    def __init__(self, **columns):
        self._columns = {name: np.array(values) for name, values in columns.items()}
        self.columns = list(columns)

    def __getitem__(self, name):
        return Column(self._columns[name])

    def to_numpy(self):
        return np.stack(list(self._columns.values()), axis=1)


class Column:
    def __init__(self, values):
        self._values = values

    def to_numpy(self):
        return self._values


def test_a_data_frame_is_a_dict_of_its_columns():
    ages, names = TensorSpec("age", (None,), "float32"), TensorSpec("name", (None,), "string")
    matched = match(Frame(name=["a", "b"], age=[3, 4]), [ages, names], "input")
    assert [(name, value.tolist(), spec) for name, value, spec in matched] == [
        ("name", ["a", "b"], names),
        ("age", [3, 4], ages),
    ]
    assert sent(Frame(age=[3, 4]), [ages]) == {"age": [3.0, 4.0]}
    with pytest.raises(UnknownInput, match="unknown input 'agee'; did you mean 'age'"):
        match(Frame(name=["a"], agee=[3]), [ages, names], "input")


def test_a_data_frame_is_an_array_for_the_only_input():
    """As for Keras, whatever its columns are called."""
    assert sent(Frame(a=[1, 4], b=[2, 5], c=[3, 6]), ONE) == {"x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}
    one_hot = match(Frame(no=[1, 0], yes=[0, 1]), [TensorSpec("y", (None, 2), "float32")], "output", targets=True)
    assert one_hot[0][1].tolist() == [[1, 0], [0, 1]]


def test_an_input_may_be_left_out_as_the_outputs_may_not_need_it():
    assert sent({"left": [[1, 2]]}, TWO) == {"left": [[1.0, 2.0]]}


class Batches:
    """As a PyDataset, a DataLoader or a tf.data.Dataset has it."""

    def __iter__(self):
        return iter([np.zeros((4, 3))])


@pytest.mark.parametrize(
    ("inputs", "specs", "error", "text"),
    [
        ({"lft": 1}, TWO, UnknownInput, "unknown input 'lft'; did you mean 'left'?"),
        ({"zzz": 1}, TWO, UnknownInput, "the model has 'left', 'right'"),
        (
            np.zeros((2, 2)),
            TWO,
            MissingInput,
            "got one array of shape (2, 2), expected a dict or a list of 2: left, right",
        ),
        ([[[1, 2]]], TWO, MissingInput, "got a list of 1, expected 2"),
        ([1, 2, 3], TWO, InvalidArgument, "got a list of 3, expected 2"),
        ([{"a": 1, "b": 2}] * 2, TWO, InvalidArgument, "got a list of dicts, one for each row, expected one dict"),
        ([{"x": [1, 2, 3]}], ONE, InvalidArgument, "got a list of dicts, one for each row, expected one dict"),
        ({"left": [["a", "b"]]}, TWO, InvalidTensor, "tensor 'left': got dtype string, expected float32"),
        ([[1, 2], [3]], ONE, InvalidTensor, "tensor 'x'"),
        (Path("a.png"), ONE, InvalidArgument, "a.png'), expected an array of rows; read the file, such as [PIL.Image"),
        (
            (row for row in ()),
            ONE,
            InvalidArgument,
            "x: got generator, which yields batches, expected an array of rows; ",
        ),
        (
            Batches(),
            ONE,
            InvalidArgument,
            "x: got Batches, which yields batches, expected an array of rows; client",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(inputs, specs, error, text):
    with pytest.raises(error) as caught:
        encode_inputs(inputs, specs)
    assert text in str(caught.value)


def test_without_a_signature_names_are_taken_as_they_are():
    assert sent({"anything": [0.5]}, []) == {"anything": [0.5]}
    tensor = encode_inputs([[0.1]], [])[0]
    assert (tensor.name, decode(tensor).dtype) == ("", np.float32)


def test_targets_may_have_another_rank_than_the_output():
    specs = [TensorSpec("probabilities", (None, 10), "float32")]
    labels = np.array([1, 2, 3])
    assert match(labels, specs, "output", targets=True)[0][1] is labels
    assert match([labels], specs, "output", targets=True)[0][1] is labels
    with pytest.raises(UnknownOutput, match="unknown output 'probs'"):
        match({"probs": labels}, specs, "output", targets=True)


def test_images_are_a_list_of_them():
    """As PIL has them: what NumPy makes an array of, without a shape."""

    class Image:
        def __init__(self, size):
            self._pixels = np.arange(3 * size * size, dtype=np.uint8).reshape(size, size, 3)
            self.__array_interface__ = self._pixels.__array_interface__

    specs = [TensorSpec("image", (None, 2, 2, 3), "float32")]
    assert np.shape(sent([Image(2)], specs)["image"]) == (1, 2, 2, 3)
    assert np.shape(sent([Image(2), Image(2)], specs)["image"]) == (2, 2, 2, 3)
    with pytest.raises(InvalidTensor, match="tensor 'image': got rows of different lengths"):
        sent([Image(2), Image(3)], specs)
