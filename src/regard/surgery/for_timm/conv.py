"""timm's convolution with norm and activation, which all of its convolutional networks use."""

from __future__ import annotations

from regard.surgery.inference.conv_norm import ConvNormFold


class ConvNormActFold(ConvNormFold):
    """Fold the batch norm of `ConvNormAct` into its convolution."""

    upstream_classes = ("timm.layers.conv_bn_act.ConvNormAct",)
    convolution = "conv"
    norm = "bn"
