"""The closed table of KerasHub's model classes, by the names under which files refer to them."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.layers.hub.table import PACKAGE
from layergraph.models.hub.architecture import Architecture
from layergraph.models.hub.convolutional import DenseNetBackbone, VGGBackbone, XceptionBackbone
from layergraph.models.hub.encoders import ENCODERS
from layergraph.models.hub.image_classifiers import IMAGE_CLASSIFIERS
from layergraph.models.hub.resnet import ResNetBackbone
from layergraph.models.hub.tasks import TEXT_TASKS

_CLASSES: tuple[type[Architecture], ...] = (
    *ENCODERS,
    DenseNetBackbone,
    ResNetBackbone,
    VGGBackbone,
    XceptionBackbone,
    *TEXT_TASKS,
    *IMAGE_CLASSIFIERS,
)

#: Registered name -> class, with the names of text classifiers before KerasHub 0.17, which end in `Classifier`.
HUB_MODELS: Mapping[str, type[Architecture]] = {
    **{f"{PACKAGE}{kind.__name__}": kind for kind in _CLASSES},
    **{
        f"{PACKAGE}{kind.__name__.replace('TextClassifier', 'Classifier')}": kind
        for kind in TEXT_TASKS
        if kind.__name__.endswith("TextClassifier")
    },
}
