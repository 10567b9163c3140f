"""Images of a user, in all their forms, as the elements of an input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.image_elements import image_elements
from layerserve.values.inputs import encode_inputs
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import decode
from PIL import Image

IMAGES = [TensorSpec("x", (None, 2, 2, 3), "float32", "image")]
PICTURE = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b.png"
    path.write_bytes(b"content")
    return path


def test_images_are_bytes_or_paths(file):
    for value in (b"content", file, str(file), [b"content"], (file,), np.array([str(file)]), {"x": [file]}):
        (tensor,) = encode_inputs(value, IMAGES)
        assert (tensor.name, decode(tensor).tolist()) == ("x", [b"content"])
    (tensor,) = encode_inputs([b"one", file, str(file)], IMAGES)
    assert decode(tensor).tolist() == [b"one", b"content", b"content"]


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "1"])
def test_images_of_pillow_are_sent_without_loss(mode):
    image = PICTURE.convert(mode)
    elements = image_elements(image)
    assert elements is not None
    again = Image.open(io.BytesIO(elements[0]))
    assert (again.mode, again.convert("RGBA").tobytes()) == (mode, image.convert("RGBA").tobytes())


def test_images_in_modes_that_png_lacks_are_sent_as_rgb():
    elements = image_elements([PICTURE.convert("CMYK")])
    assert elements is not None
    assert Image.open(io.BytesIO(elements[0])).tobytes() == PICTURE.convert("CMYK").convert("RGB").tobytes()


def test_numbers_are_arrays():
    for rows in (np.ones((1, 2, 2, 3)), np.ones((1, 2, 2, 3)).tolist(), np.ones((1, 2, 2, 3), np.uint8)):
        (tensor,) = encode_inputs(rows, IMAGES)
        assert decode(tensor).tolist() == np.ones((1, 2, 2, 3)).tolist()


def test_a_file_that_is_missing_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        encode_inputs([tmp_path / "nothing.png"], IMAGES)


def test_inputs_that_take_arrays_only_take_no_files(file):
    arrays = [TensorSpec("x", (None, 2, 2, 3), "float32")]
    with pytest.raises(InvalidArgument, match="read the file"):
        encode_inputs(file, arrays)
    with pytest.raises(InvalidTensor, match="got dtype string, expected float32"):
        encode_inputs([b"content"], arrays)
    (tensor,) = encode_inputs([PICTURE], arrays)
    assert decode(tensor).tolist() == [np.asarray(PICTURE).tolist()]
