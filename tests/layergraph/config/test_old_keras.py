"""Files of multi-backend Keras, 1.2 to 2.3 on TensorFlow and Theano, give the numbers of the Keras that wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_files import check_fixture

FOLDER = Path(__file__).parents[2] / "fixtures" / "old_keras"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.h5")), ids=lambda path: path.stem)
def test_files_of_old_keras_give_its_numbers(path: Path) -> None:
    check_fixture(path)
