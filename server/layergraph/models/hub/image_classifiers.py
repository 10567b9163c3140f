"""Classifiers of images on a backbone (keras_hub.models.ImageClassifier)."""

from __future__ import annotations

from layergraph.config.options import fraction, one_of, option, positive_int
from layergraph.functional.layer import Layer
from layergraph.layers import Conv2D, Dense, Dropout, Flatten, GlobalAveragePooling2D, GlobalMaxPooling2D
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activation
from layergraph.models.hub.architecture import Ends
from layergraph.models.hub.tasks import Task
from layergraph.models.sequential import Sequential

_POOLERS = {"avg": GlobalAveragePooling2D, "max": GlobalMaxPooling2D}


class ImageClassifier(Task):
    """Classifies images. Output (rows, num_classes).

    pooling      of the backbone's output over height and width
    activation   of the output: by default none, so that outputs are logits
    """

    num_classes: int = option(positive_int, kw_only=True)
    pooling: str = option(one_of(*_POOLERS), default="avg", kw_only=True)
    activation: Activation = option(activation, default=None, kw_only=True)
    dropout: float = option(fraction, default=0.0, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        x = _POOLERS[self.pooling](dtype=self.dtype, name="pooler")(self.backbone(self.backbone.input))
        x = Dropout(self.dropout, dtype=self.dtype, name="output_dropout")(x)
        return self.backbone.input, self.predictions()(x)

    def predictions(self) -> Dense:
        """The last layer."""
        return Dense(self.num_classes, activation=self.activation, dtype=self.dtype, name="predictions")


class ResNetImageClassifier(ImageClassifier):
    """keras_hub.models.ResNetImageClassifier."""


class DenseNetImageClassifier(ImageClassifier):
    """keras_hub.models.DenseNetImageClassifier."""


class XceptionImageClassifier(ImageClassifier):
    """keras_hub.models.XceptionImageClassifier."""


class VGGImageClassifier(ImageClassifier):
    """keras_hub.models.VGGImageClassifier: a head of convolutions over 7 x 7, or of dense layers after flattening.

    pooling_hidden_dim   number of features of the two hidden layers of the head
    """

    pooling: str = option(one_of(*_POOLERS, "flatten"), default="avg", kw_only=True)
    pooling_hidden_dim: int = option(positive_int, default=4096, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        size = self.pooling_hidden_dim
        dropout = Dropout(self.dropout, dtype=self.dtype, name="output_dropout")
        layers: list[Layer]
        if self.pooling == "flatten":
            hidden = [Dense(size, activation="relu", name=name) for name in ("fc1", "fc2")]
            layers = [Flatten(name="flatten"), hidden[0], dropout, hidden[1]]
        else:
            layers = [
                Conv2D(size, 7, activation="relu", name="fc1"),
                dropout,
                Conv2D(size, 1, activation="relu", padding="same", name="fc2"),
                _POOLERS[self.pooling](dtype=self.dtype, name="pooler"),
            ]
        head = Sequential([*layers, self.predictions()], name="head")
        return self.backbone.input, head(self.backbone(self.backbone.input))


IMAGE_CLASSIFIERS: tuple[type[Task], ...] = (
    DenseNetImageClassifier,
    ImageClassifier,
    ResNetImageClassifier,
    VGGImageClassifier,
    XceptionImageClassifier,
)
