"""Layers, by Keras's names; one file or folder a family.

Way in: the classes below, or the closed `table` of class names that files may have. Read `core/basic.py` first:
`Dense` is the example. `inner_layers` is for layers that hold layers; `biases`, `spatial`, `masked_softmax` and
`activation_functions` are shared by families. Way out: `build` and `forward`, which `functional` calls.
"""

from typing import TYPE_CHECKING, Any

from layergraph.functional.input import (
    Input,
    InputLayer,
)
from layergraph.functional.input_spec import InputSpec
from layergraph.functional.layer import (
    Layer,
)
from layergraph.layers.activations import (
    ELU,
    Activation,
    LeakyReLU,
    PReLU,
    ReLU,
    Softmax,
    ThresholdedReLU,
)
from layergraph.layers.applications import (
    CustomScaleLayer,
    LayerScale,
    StochasticDepth,
)
from layergraph.layers.attention.attention import AdditiveAttention, Attention
from layergraph.layers.attention.multi_head import GroupQueryAttention, MultiHeadAttention
from layergraph.layers.convolutional.convolution import Conv1D, Conv2D, Conv3D
from layergraph.layers.convolutional.depthwise import DepthwiseConv1D, DepthwiseConv2D, SeparableConv1D, SeparableConv2D
from layergraph.layers.convolutional.locally_connected import LocallyConnected1D, LocallyConnected2D
from layergraph.layers.convolutional.transpose import Conv1DTranspose, Conv2DTranspose, Conv3DTranspose
from layergraph.layers.core.basic import Dense, Embedding, Identity, Masking
from layergraph.layers.core.einsum import EinsumDense
from layergraph.layers.core.python_function import Lambda
from layergraph.layers.core.reversible_embedding import ReversibleEmbedding
from layergraph.layers.keras1 import (
    CosineMerge,
    Highway,
    MaxoutDense,
    ParametricSoftplus,
    SReLU,
)
from layergraph.layers.merging import (
    Add,
    Average,
    Concatenate,
    Dot,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    dot,
    maximum,
    minimum,
    multiply,
    subtract,
)
from layergraph.layers.normalization.batch import BatchNormalization
from layergraph.layers.normalization.spectral import SpectralNormalization
from layergraph.layers.normalization.statistics import (
    GroupNormalization,
    LayerNormalization,
    RMSNormalization,
    UnitNormalization,
)
from layergraph.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    AveragePooling3D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
)
from layergraph.layers.pooling_global import (
    AdaptiveAveragePooling1D,
    AdaptiveAveragePooling2D,
    AdaptiveAveragePooling3D,
    AdaptiveMaxPooling1D,
    AdaptiveMaxPooling2D,
    AdaptiveMaxPooling3D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
)
from layergraph.layers.preprocessing.audio import MelSpectrogram, STFTSpectrogram
from layergraph.layers.preprocessing.augmentation import (
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomGrayscale,
    RandomInvert,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)
from layergraph.layers.preprocessing.augmentation_inference import (
    AugMix,
    CutMix,
    Equalization,
    MaxNumBoundingBoxes,
    MixUp,
    RandAugment,
    RandomColorDegeneration,
    RandomColorJitter,
    RandomElasticTransform,
    RandomErasing,
    RandomGaussianBlur,
    RandomHeight,
    RandomHue,
    RandomPerspective,
    RandomPosterization,
    RandomSaturation,
    RandomSharpness,
    RandomShear,
    RandomWidth,
    Solarization,
)
from layergraph.layers.preprocessing.categorical import CategoryEncoding, Discretization, HashedCrossing, Hashing
from layergraph.layers.preprocessing.image_contrast import AutoContrast, ContrastLimitedAdaptiveHistogramEqualization
from layergraph.layers.preprocessing.images import CenterCrop, Normalization, Rescaling, Resizing
from layergraph.layers.preprocessing.lookup import IntegerLookup, StringLookup
from layergraph.layers.preprocessing.pipeline import Pipeline
from layergraph.layers.preprocessing.text_vectorization import TextVectorization
from layergraph.layers.regularization import (
    ActivityRegularization,
    AddLoss,
    AddMetric,
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from layergraph.layers.reshaping import (
    Cropping1D,
    Cropping2D,
    Cropping3D,
    Flatten,
    Permute,
    RepeatVector,
    Reshape,
    ZeroPadding1D,
    ZeroPadding2D,
    ZeroPadding3D,
)
from layergraph.layers.rnn.convolutional import ConvLSTM1D, ConvLSTM2D, ConvLSTM3D
from layergraph.layers.rnn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell, StackedRNNCells
from layergraph.layers.up_sampling import (
    UpSampling1D,
    UpSampling2D,
    UpSampling3D,
)
from layergraph.layers.wrappers import (
    Bidirectional,
    TimeDistributed,
    Wrapper,
)

if not TYPE_CHECKING:
    #: Names of Keras that custom layers use, and what they use here.
    _INSTEAD = {
        "deserialize": "layergraph.saving.deserialize_keras_object",
        "serialize": "layergraph.saving.serialize_keras_object",
    }

    def __getattr__(name: str) -> Any:
        instead = f"; expected {_INSTEAD[name]}" if name in _INSTEAD else ""
        raise AttributeError(f"module 'layergraph.layers' has no attribute '{name}'{instead}")


# Keras's aliases.
AvgPool1D = AveragePooling1D
AvgPool2D = AveragePooling2D
AvgPool3D = AveragePooling3D
Convolution1D = Conv1D
Convolution1DTranspose = Conv1DTranspose
Convolution2D = Conv2D
Convolution2DTranspose = Conv2DTranspose
Convolution3D = Conv3D
Convolution3DTranspose = Conv3DTranspose
GlobalAvgPool1D = GlobalAveragePooling1D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalAvgPool3D = GlobalAveragePooling3D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalMaxPool2D = GlobalMaxPooling2D
GlobalMaxPool3D = GlobalMaxPooling3D
MaxPool1D = MaxPooling1D
MaxPool2D = MaxPooling2D
MaxPool3D = MaxPooling3D
SeparableConvolution1D = SeparableConv1D
SeparableConvolution2D = SeparableConv2D

__all__ = [
    "ELU",
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "ActivityRegularization",
    "AdaptiveAveragePooling1D",
    "AdaptiveAveragePooling2D",
    "AdaptiveAveragePooling3D",
    "AdaptiveMaxPooling1D",
    "AdaptiveMaxPooling2D",
    "AdaptiveMaxPooling3D",
    "Add",
    "AddLoss",
    "AddMetric",
    "AdditiveAttention",
    "AlphaDropout",
    "Attention",
    "AugMix",
    "AutoContrast",
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "BatchNormalization",
    "Bidirectional",
    "CategoryEncoding",
    "CenterCrop",
    "Concatenate",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "Convolution1D",
    "Convolution1DTranspose",
    "Convolution2D",
    "Convolution2DTranspose",
    "Convolution3D",
    "Convolution3DTranspose",
    "CosineMerge",
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "CustomScaleLayer",
    "CutMix",
    "Dense",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "Discretization",
    "Dot",
    "Dropout",
    "EinsumDense",
    "Embedding",
    "Equalization",
    "Flatten",
    "GRUCell",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalAvgPool3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GroupNormalization",
    "GroupQueryAttention",
    "HashedCrossing",
    "Hashing",
    "Highway",
    "Identity",
    "Input",
    "InputLayer",
    "InputSpec",
    "IntegerLookup",
    "LSTMCell",
    "Lambda",
    "Layer",
    "LayerNormalization",
    "LayerScale",
    "LeakyReLU",
    "LocallyConnected1D",
    "LocallyConnected2D",
    "Masking",
    "MaxNumBoundingBoxes",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Maximum",
    "MaxoutDense",
    "MelSpectrogram",
    "Minimum",
    "MixUp",
    "MultiHeadAttention",
    "Multiply",
    "Normalization",
    "PReLU",
    "ParametricSoftplus",
    "Permute",
    "Pipeline",
    "RMSNormalization",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomCrop",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHeight",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomWidth",
    "RandomZoom",
    "ReLU",
    "RepeatVector",
    "Rescaling",
    "Reshape",
    "Resizing",
    "ReversibleEmbedding",
    "SReLU",
    "STFTSpectrogram",
    "SeparableConv1D",
    "SeparableConv2D",
    "SeparableConvolution1D",
    "SeparableConvolution2D",
    "SimpleRNN",
    "SimpleRNNCell",
    "Softmax",
    "Solarization",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "SpectralNormalization",
    "StackedRNNCells",
    "StochasticDepth",
    "StringLookup",
    "Subtract",
    "TextVectorization",
    "ThresholdedReLU",
    "TimeDistributed",
    "UnitNormalization",
    "UpSampling1D",
    "UpSampling2D",
    "UpSampling3D",
    "Wrapper",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
    "add",
    "average",
    "concatenate",
    "dot",
    "maximum",
    "minimum",
    "multiply",
    "subtract",
]
