"""Models of KerasHub's classes, which files describe by their hyperparameters."""

from __future__ import annotations

from layergraph.functional.class_form import ClassForm
from layergraph.functional.naming import default_name
from layergraph.layers.hub.table import PACKAGE
from layergraph.models.hub.architecture import Architecture
from layergraph.models.hub.tasks import Task
from layergraph.models.model import Model


class HubModel(Model):
    """A model of one of KerasHub's classes.

        backbone = HubModel(BertBackbone(vocabulary_size=30522, num_layers=2, ...))
        model = HubModel(BertTextClassifier(backbone=backbone, num_classes=3))

    architecture   the class's hyperparameters

    Raises GraphError or ConfigError for hyperparameters that don't fit together.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        inputs, outputs = architecture.graph()
        name = architecture.name or default_name(self.keras_class_name)
        super().__init__(inputs, outputs, name, architecture.trainable)
        self.dtype_policy = architecture.dtype

    @property
    def keras_class_name(self) -> str:
        """KerasHub's name of the class."""
        return type(self.architecture).__name__

    @property
    def class_form(self) -> ClassForm:
        """The class's hyperparameters as KerasHub takes them from files, with the present name and `trainable`."""
        now = {"name": self.name, "trainable": self.trainable}
        config = {key: now.get(key, value) for key, value in self.architecture.get_config().items()}
        backbone = self.architecture.backbone if isinstance(self.architecture, Task) else None
        return ClassForm(f"{PACKAGE}{self.keras_class_name}", config, backbone)
