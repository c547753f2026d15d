"""Building blocks that both halves of a model use (SiftFunnel, arXiv 2501.00824, and its parts)."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.core.gating import composing, convolve, gated, must_compose, pools, spatial_mean

STATISTICS_MOMENTUM = 0.25
"""Weight of one batch of the cohort in the running statistics of batch norm.

Training takes a few dozen steps. With the published momenta of 0.1 and, in the gates, 0.01, the
statistics would lag behind the weights when a model is evaluated after a round; one batch is too
noisy. Gradients do not depend on it.
"""


class BatchAverage(nn.Module):
    """Base of layers that average over batches, as batch norm averages its statistics.

    Attributes
    ----------
    momentum : weight of the next batch.
    """

    momentum: float = 1.0


MIN_BATCH = 2
"""Least images of a training batch: batch norm needs two."""


def running_weight(batches_before: int, batches: int = 1) -> float:
    """Return the weight of the newest ``batches`` in the running average: a mean, then moving."""
    moving = 1.0 - (1.0 - STATISTICS_MOMENTUM) ** batches
    return max(moving, batches / (batches_before + batches))


def set_statistics_momentum(module: nn.Module, momentum: float) -> None:
    """Set the weight of the next batch in all layers of ``module`` that average over batches."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | BatchAverage):
            layer.momentum = momentum


def channels_last(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) in the layout that the layers run fastest in.

    Images of one channel are in both layouts at once by their numbers. PyTorch takes them to be in
    the slow one, and so are then the outputs of all layers, unless their strides say otherwise.
    Where operations are counted they stay as they are: the layout must not change a device's costs.
    """
    if x.shape[1] == 1 and not composing():
        return x.contiguous().squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return the CNN's block: conv 3x3 with bias, BN, max-pool 2, ReLU; halves H and W."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )


class Dropout(nn.Dropout):
    """Dropout whose mask is drawn on the CPU: it is the same on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x in training."""
        if not self.training:
            return x
        mask = functional.dropout(torch.ones_like(x, device="cpu"), self.p)
        return x * mask.to(x.device)


class SqueezeExcitation(nn.Module):
    """Channel gate: global mean, bias-free bottleneck of ratio ``reduction`` (arXiv 1709.01507)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of (N, C, H, W)."""
        hidden = torch.relu(self.squeeze(spatial_mean(x)))
        return x * torch.sigmoid(self.excite(hidden))[:, :, None, None]


class _TripletGate(nn.Module):
    """Gate over the last two axes from the max and mean over axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.amax(dim=1), x.mean(dim=1)], dim=1)
        return x * torch.sigmoid(self.norm(self.conv(pooled)))

    def gate(self, peak: Tensor, mean: Tensor) -> Tensor:
        """Return the gate (N, 1, A, B) from maximum and mean (N, 1, A, B)."""
        return torch.sigmoid(self.norm(convolve(self.conv, [peak.squeeze(1), mean.squeeze(1)])))


FEW_NUMBERS = 1 << 14
"""Features of at most this size pass the gates' modules fastest: calls take longer than numbers."""


class TripletAttention(nn.Module):
    """Mean of three gates: C and H swapped, C and W swapped, none swapped (arXiv 2010.03045)."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_height = _TripletGate()
        self.channel_width = _TripletGate()
        self.spatial = _TripletGate()

    def forward(self, x: Tensor) -> Tensor:
        """Gate (N, C, H, W); any C, H and W."""
        if must_compose(self) or (x.numel() <= FEW_NUMBERS and not torch.is_grad_enabled()):
            by_height: Tensor = self.channel_height(x.transpose(1, 2)).transpose(1, 2)
            by_width: Tensor = self.channel_width(x.transpose(1, 3)).transpose(1, 3)
            as_it_is: Tensor = self.spatial(x)
            return (by_height + by_width + as_it_is) / 3.0
        x = x.contiguous(memory_format=torch.channels_last)
        (high, high_mean), (wide, wide_mean), deep = pools(x)
        gates = (
            self.channel_height.gate(high.transpose(1, 2), high_mean.transpose(1, 2)),
            self.channel_width.gate(wide.transpose(1, 3), wide_mean.transpose(1, 3)),
            self.spatial.gate(*deep),
        )
        turned = (gates[0].transpose(1, 2), gates[1].transpose(1, 3), gates[2])
        return gated(x, [gate / 3.0 for gate in turned])


class Cbam(nn.Module):
    """Channel then spatial attention (arXiv 1807.06521), bias-free."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def _channel(self, pooled: Tensor) -> Tensor:
        excited: Tensor = self.excite(torch.relu(self.squeeze(pooled)))
        return excited

    def forward(self, x: Tensor) -> Tensor:
        """Gate (N, C, H, W)."""
        mean = self._channel(x.mean(dim=(2, 3), keepdim=True))
        peak = self._channel(x.amax(dim=(2, 3), keepdim=True))
        x = x * torch.sigmoid(mean + peak)
        pooled = torch.stack([x.mean(dim=1), x.amax(dim=1)], dim=1)
        gate: Tensor = self.spatial(pooled)
        return x * torch.sigmoid(gate)


def funnel_tail(channels: int) -> nn.Sequential:
    """Return SiftFunnel's Tail: conv 3x3, SiLU, conv 1x1, conv 3x3, conv 5x5, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.SiLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.Conv2d(channels, channels, 5, padding=2),
        nn.ReLU(inplace=True),
    )


def widen(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return the cloud's Up: two bias-free conv 3x3 in sequence, BN, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Return conv, BN, ReLU; odd ``kernel``, padded so that stride 1 keeps H and W."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class BasicBlock(nn.Module):
    """ResNet's basic block (arXiv 1512.03385, fig. 5 left); projects where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(in_channels, out_channels, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        residual: Tensor = self.second(self.first(x))
        return torch.relu(residual + self.shortcut(x))


def residual_stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return a stage of ResNet-18: two basic blocks, the first of the given stride."""
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1)
    )


def vgg_stage(in_channels: int, out_channels: int, convs: int, bias: bool = True) -> nn.Sequential:
    """Return a stage of VGG with BN (arXiv 1409.1556): ``convs`` of conv 3x3, then max-pool 2."""
    widths = [in_channels] + [out_channels] * convs
    layers = [conv_norm_relu(a, b, bias=bias) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class SummedConvs(nn.Module):
    """The autoencoder baseline's unit: (conv 3x3) + (conv 3x3, SiLU, conv 3x3), biased."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(channels, channels, 3, padding=1)
        self.long = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, C, H, W)."""
        summed: Tensor = self.short(x) + self.long(x)
        return summed
