"""timm's convolution with norm and activation, which all of its convolutional networks use."""

from __future__ import annotations

from torch import Tensor, nn

from regard.dense import DepthwiseConv2d, convolve, depthwise_block, does_nothing
from regard.surgery.adapter import Adapter, attach
from regard.surgery.inference.conv_norm import ConvNormFold
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inspection import Sharing, Upstream, obstacle


class ConvAct(Adapter):
    """Forward of `ConvNormAct` whose batch norm has become its activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        return convolve(self.conv, x, self.bn)


class InvertedResidual(Adapter):
    """Forward of `BottleneckBlock` with a depth-wise convolution and nothing besides its three convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        parts = (self.conv1_1x1, self.conv2_kxk, self.conv3_1x1)
        first, depthwise, last = (part.conv for part in parts)
        activations = (parts[0].bn, parts[1].bn, None)
        residual = self.shortcut is not None
        return depthwise_block(x, depthwise, [last], activations, before=first, residual=residual)


class ConvNormActFold(ConvNormFold):
    """Fold the batch norm of `ConvNormAct` into its convolution."""

    upstream_classes = ("timm.layers.conv_bn_act.ConvNormAct",)
    convolution = "conv"
    norm = "bn"

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold the batch norm, and compute convolution and activation together."""
        folding = super().apply(module, sharing)
        if folding[1] and isinstance(module.bn, nn.Module) and getattr(module, "aa", None) is None:
            attach(module, ConvAct)
        return folding


class BottleneckFold(Fold):
    """Compute the convolutions of an inverted residual together."""

    upstream_classes = ("timm.models.byobnet.BottleneckBlock",)
    is_channels_last = True

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold nothing, but attach `InvertedResidual` if the block is one."""
        parts = (module.conv1_1x1, module.conv2_kxk, module.conv3_1x1)
        others = (module.conv2b_kxk, module.attn, module.attn_last, module.drop_path, module.act)
        if (
            all(isinstance(part, ConvAct) for part in parts)
            and DepthwiseConv2d.accepts(parts[1].conv)
            and all(does_nothing(other) for other in (*others, parts[-1].bn))
            and (module.shortcut is None or does_nothing(module.shortcut))
            and not obstacle(module, "timm", sharing)
        ):
            attach(module, InvertedResidual)
        return module, []
