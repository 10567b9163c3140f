"""Models made of a backbone and a head (keras_hub.models: text classifiers, masked language models).

Tokenizers and preprocessors aren't part of them: inputs are those of the backbone.
"""

from __future__ import annotations

from typing import Any, ClassVar

from layergraph.config.options import Expected, fraction, option, optional, positive_int
from layergraph.errors import GraphError
from layergraph.functional.functional import Functional
from layergraph.functional.input import Input
from layergraph.functional.tensor import Tensor
from layergraph.layers import Dense, Dropout, ReversibleEmbedding
from layergraph.layers.activation_functions import Activation, gelu_approximate
from layergraph.layers.activations import activation
from layergraph.layers.hub import MaskedLMHead
from layergraph.models.hub.architecture import Architecture, Ends
from layergraph.models.hub.encoders import small_normal_values, small_values


def _model(value: Any) -> Functional:
    if isinstance(value, Functional):
        return value
    raise Expected("a model")


class Task(Architecture):
    """A model on top of a backbone. Its layers have the backbone's dtype policy."""

    backbone: Functional = option(_model, kw_only=True)

    def setup(self) -> None:
        """Takes the backbone's policy."""
        self.dtype = self.backbone.dtype_policy

    def get_config(self) -> dict[str, Any]:
        """The options that KerasHub's class takes from a file, without the backbone."""
        config = super().get_config()
        for key in ("backbone", "trainable", "dtype"):
            del config[key]
        return {"preprocessor": None, **config}

    def option_value(self, name: str) -> Any:
        """Returns no value for the backbone: it is a model, not a value."""
        return None if name == "backbone" else super().option_value(name)

    def backbone_outputs(self, name: str) -> Tensor:
        """Calls the backbone and returns its output of that name, or its only output. Raises GraphError."""
        outputs = self.backbone(self.backbone.input)
        chosen = outputs.get(name) if isinstance(outputs, dict) else outputs
        if not isinstance(chosen, Tensor):
            raise GraphError(f"{type(self).__name__}: the backbone has no output '{name}'")
        return chosen


class _TextClassifier(Task):
    """Classifies texts. Output (rows, num_classes).

    activation   of the output: by default none, so that outputs are logits
    """

    num_classes: int = option(positive_int, kw_only=True)
    activation: Activation = option(activation, default=None, kw_only=True)

    def logits(self, x: Tensor, initial: Any = small_values) -> Tensor:
        """The last layer."""
        made: Tensor = Dense(
            self.num_classes,
            kernel_initializer=initial(),
            activation=self.activation,
            dtype=self.dtype,
            name="logits",
        )(x)
        return made

    def thinned(self, x: Tensor, rate: float, name: str) -> Tensor:
        """Applies dropout."""
        made: Tensor = Dropout(rate, dtype=self.dtype, name=name)(x)
        return made


class _PooledClassifier(_TextClassifier):
    """A classifier on the backbone's pooled output."""

    dropout: float = option(fraction, default=0.1, kw_only=True)

    #: Name of the dropout before the last layer, and initial values of that layer.
    dropout_name: ClassVar[str] = "output_dropout"
    initial: ClassVar[Any] = staticmethod(small_values)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        x = self.thinned(self.backbone_outputs("pooled_output"), self.dropout, self.dropout_name)
        return self.backbone.input, self.logits(x, self.initial)


class BertTextClassifier(_PooledClassifier):
    """keras_hub.models.BertTextClassifier."""

    dropout_name = "classifier_dropout"


class AlbertTextClassifier(_PooledClassifier):
    """keras_hub.models.AlbertTextClassifier."""


class FNetTextClassifier(_PooledClassifier):
    """keras_hub.models.FNetTextClassifier."""

    initial = staticmethod(small_normal_values)


class _FirstTokenClassifier(_TextClassifier):
    """A classifier on the backbone's output for the first token, with a dense layer of its own.

    hidden_dim   number of features of the dense layer, by default that of the backbone's output
    """

    hidden_dim: Any = option(optional(positive_int), default=None, kw_only=True)
    dropout: float = option(fraction, default=0.0, kw_only=True)

    def first_token(self) -> Tensor:
        """The backbone's output for the first token. Raises GraphError for another rank of the output."""
        outputs = self.backbone_outputs("sequence_output")
        if len(outputs.shape) != 3:
            raise GraphError(
                f"{type(self).__name__}: the backbone's output has shape {outputs.shape}, expected (rows, timesteps, "
                "features)"
            )
        first: Tensor = outputs[:, 0, :]
        self.hidden_dim = self.hidden_dim or outputs.shape[-1] or 0
        return first

    def dense(self, x: Tensor, chosen: str, **options: Any) -> Tensor:
        """The dense layer."""
        made: Tensor = Dense(self.hidden_dim, activation=chosen, dtype=self.dtype, name="pooled_dense", **options)(x)
        return made


class RobertaTextClassifier(_FirstTokenClassifier):
    """keras_hub.models.RobertaTextClassifier."""

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        x = self.dense(self.thinned(self.first_token(), self.dropout, "pooled_dropout"), "tanh")
        return self.backbone.input, self.logits(self.thinned(x, self.dropout, "output_dropout"))


class XLMRobertaTextClassifier(RobertaTextClassifier):
    """keras_hub.models.XLMRobertaTextClassifier."""


class DistilBertTextClassifier(_FirstTokenClassifier):
    """keras_hub.models.DistilBertTextClassifier."""

    dropout: float = option(fraction, default=0.2, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        x = self.dense(self.first_token(), "relu", kernel_initializer=small_values())
        return self.backbone.input, self.logits(self.thinned(x, self.dropout, "output_dropout"))


class _MaskedLM(Task):
    """Predicts masked tokens. One more input, `mask_positions` (rows, n); output (rows, n, vocabulary_size), logits."""

    intermediate_activation: ClassVar[Any] = "gelu"
    initial: ClassVar[Any] = staticmethod(small_values)

    def graph(self) -> Ends:
        """Creates the layers and calls them. Raises GraphError if the backbone has no layer `token_embedding`."""
        layers = self.backbone.walk_layers()
        embedding = next((one for one in layers if isinstance(one, ReversibleEmbedding)), None)
        inputs = self.backbone.input
        if embedding is None or not isinstance(inputs, dict):
            raise GraphError(
                f"{type(self).__name__}: backbone '{self.backbone.name}' has no ReversibleEmbedding or no named inputs"
            )
        places = Input(shape=(None,), dtype="int32", name="mask_positions")
        head = MaskedLMHead(
            token_embedding=embedding,
            intermediate_activation=self.intermediate_activation,
            kernel_initializer=self.initial(),
            dtype=self.dtype,
            name="mlm_head",
        )
        outputs = head(self.backbone_outputs("sequence_output"), places)
        return {**inputs, "mask_positions": places}, outputs


class BertMaskedLM(_MaskedLM):
    """keras_hub.models.BertMaskedLM."""


class AlbertMaskedLM(_MaskedLM):
    """keras_hub.models.AlbertMaskedLM."""

    intermediate_activation = staticmethod(gelu_approximate)


class DistilBertMaskedLM(_MaskedLM):
    """keras_hub.models.DistilBertMaskedLM."""


class RobertaMaskedLM(_MaskedLM):
    """keras_hub.models.RobertaMaskedLM."""


class XLMRobertaMaskedLM(_MaskedLM):
    """keras_hub.models.XLMRobertaMaskedLM."""


class FNetMaskedLM(_MaskedLM):
    """keras_hub.models.FNetMaskedLM."""

    initial = staticmethod(small_normal_values)


TEXT_TASKS: tuple[type[Task], ...] = (
    AlbertMaskedLM,
    AlbertTextClassifier,
    BertMaskedLM,
    BertTextClassifier,
    DistilBertMaskedLM,
    DistilBertTextClassifier,
    FNetMaskedLM,
    FNetTextClassifier,
    RobertaMaskedLM,
    RobertaTextClassifier,
    XLMRobertaMaskedLM,
    XLMRobertaTextClassifier,
)
