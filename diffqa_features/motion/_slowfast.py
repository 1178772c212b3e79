"""Clips of frames in, pooled slow and fast features out: the two-pathway network.

After C. Feichtenhofer, H. Fan, J. Malik and K. He, "SlowFast networks for video
recognition", ICCV 2019. Written from the paper; state dict names match the public
Kinetics-400 checkpoint of SlowFast-R50 8x8, so that it loads directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = 0.45, 0.225
"""Of the Kinetics recipe, over pixels in [0, 1] and all channels."""

ALPHA = 4
"""Fast frames per slow frame."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a network of this family."""

    size: int
    """Native side of a frame, pixels."""
    widths: tuple[int, ...]
    """Inner channels of the slow bottlenecks, per stage."""
    depths: tuple[int, ...]
    """Bottlenecks per stage."""
    slow_kernels: tuple[int, ...]
    """Frames that the slow bottlenecks of a stage see at a time."""
    ratio: int
    """Slow channels per fast channel (1 / beta)."""
    expansion: int
    """Outer channels of a bottleneck per inner channel."""
    stem: tuple[int, int]
    """Frames that the fast stem sees, and pixels that both stems see."""
    fusion: int
    """Frames that a lateral connection sees."""
    outputs: int
    """Outputs of the head, which features do not need."""
    flow: bool
    """Whether the fast pathway sees luma and how it moves instead of colours."""

    @property
    def channels(self) -> tuple[int, int]:
        """Number of slow and fast features."""
        slow = self.widths[-1] * self.expansion
        return slow, slow // self.ratio


R50 = Shape(
    size=224,
    widths=(64, 128, 256, 512),
    depths=(3, 4, 6, 3),
    slow_kernels=(1, 1, 3, 3),
    ratio=8,
    expansion=4,
    stem=(5, 7),
    fusion=7,
    outputs=400,
    flow=False,
)

TINY = Shape(
    size=96,
    widths=(16, 24, 32),
    depths=(1, 2, 2),
    slow_kernels=(1, 3, 3),
    ratio=2,
    expansion=2,
    stem=(3, 5),
    fusion=5,
    outputs=13,
    flow=True,
)


class SlowFast(nn.Module):
    """A slow pathway for content and a thin fast pathway for motion.

    The state dict has a stem in ``blocks.0``, followed by the residual stages, a
    skipped index for the pooling, and the head ``proj``.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        fast_in = 4 if shape.flow else 3
        slow, fast = shape.widths[0], shape.widths[0] // shape.ratio
        frames, pixels = shape.stem
        blocks: list[nn.Module] = [
            _TwoPaths(
                _Stem(3, slow, (1, pixels, pixels)),
                _Stem(fast_in, fast, (frames, pixels, pixels)),
                _FastToSlow(fast, shape.fusion),
            )
        ]
        for stage, (width, depth, kernel) in enumerate(
            zip(shape.widths, shape.depths, shape.slow_kernels, strict=True)
        ):
            stride = 1 if stage == 0 else 2
            last = stage == len(shape.widths) - 1
            out = width * shape.expansion
            thin = out // shape.ratio
            blocks.append(
                _TwoPaths(
                    _Stage(slow + 2 * fast, width, out, depth, kernel, stride),
                    _Stage(fast, width // shape.ratio, thin, depth, 3, stride),
                    None if last else _FastToSlow(thin, shape.fusion),
                )
            )
            slow, fast = out, thin
        # The pooling has a number in the checkpoint, and no weights.
        blocks += [nn.Identity(), _Head(slow + fast, shape.outputs)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 pixels in [0, 1], (N, 3, T, H, W) -> (N, C slow), (N, C fast)."""
        slow, fast = self.pathways(clips)
        return self.pool(slow), self.pool(fast)

    def pathways(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Before pooling: (N, C slow, T / 4, h, w) and (N, C fast, T, h, w)."""
        slow = (clips - MEAN) / STD
        fast = _luma_and_flow(clips) if self.shape.flow else slow
        # Changes between frames are small: they are taken before rounding to half.
        dtype = self.blocks[-1].proj.weight.dtype
        paths = slow[:, :, slow_frames(clips.shape[2])].to(dtype), fast.to(dtype)
        for block in self.blocks[:-2]:
            paths = block(*paths)
        return paths

    def head(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Pooled features -> the training outputs, (N, outputs)."""
        return self.blocks[-1](torch.cat([slow, fast], 1))

    @staticmethod
    def pool(features: Tensor) -> Tensor:
        """Mean over time and space, in float32: (N, C, T, h, w) -> (N, C)."""
        return features.float().mean((2, 3, 4))


def slow_frames(count: int) -> Tensor:
    """Every fourth frame, first and last included, as the checkpoint was trained.

    Of 32 frames: 0, 4, 8, 13, 17, 22, 26, 31.
    """
    return torch.linspace(0, count - 1, max(count // ALPHA, 1)).long()


def _luma_and_flow(clips: Tensor) -> Tensor:
    """(N, 3, T, H, W) -> (N, 4, T, H, W): luma, its temporal difference, and flow.

    This is the normal flow: how far an edge moved along its gradient, x and y, on a
    grid of half the size. Its mean points in the direction of motion for any picture;
    convolutions would have to learn such a quotient.
    """
    t, h, w = clips.shape[2:]
    weights = clips.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1)
    luma = (clips * weights).sum(1)  # (N, T, H, W)
    change = _since_last(luma)
    half = F.avg_pool2d(luma, 2)
    middle = half.clone()
    middle[:, 1:] = (half[:, 1:] + half[:, :-1]) / 2
    dx, dy = torch.zeros_like(half), torch.zeros_like(half)
    dx[..., 1:-1] = (middle[..., 2:] - middle[..., :-2]) / 2
    dy[..., 1:-1, :] = (middle[..., 2:, :] - middle[..., :-2, :]) / 2
    # A floor of five grey levels: flat places have noise and no flow.
    shift = -_since_last(half) / (dx.square() + dy.square() + 0.0004)
    flow = torch.stack([shift * dx, shift * dy], 1)
    flow = F.interpolate(torch.asinh(8 * flow), (t, h, w))
    # Compressed, so that slow motion does not drown beside fast motion: a change of one
    # grey level gives 0.25, of a hundred 3.9.
    still = torch.stack([(luma - MEAN) / STD, torch.asinh(64 * change)], 1)
    return torch.cat([still, flow], 1)


def _since_last(frames: Tensor) -> Tensor:
    change = torch.zeros_like(frames)
    change[:, 1:] = frames[:, 1:] - frames[:, :-1]
    return change


class _TwoPaths(nn.Module):
    def __init__(self, slow: nn.Module, fast: nn.Module, fusion: nn.Module | None):
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        if fusion is not None:
            self.multipathway_fusion = fusion

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        slow = self.multipathway_blocks[0](slow)
        fast = self.multipathway_blocks[1](fast)
        if hasattr(self, "multipathway_fusion"):
            slow = torch.cat([slow, self.multipathway_fusion(fast)], 1)
        return slow, fast


class _FastToSlow(nn.Module):
    """The lateral connection: every fourth time step, twice the channels."""

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.conv_fast_to_slow = nn.Conv3d(
            channels,
            2 * channels,
            (frames, 1, 1),
            stride=(ALPHA, 1, 1),
            padding=(frames // 2, 0, 0),
            bias=False,
        )
        self.norm = nn.BatchNorm3d(2 * channels)

    def forward(self, fast: Tensor) -> Tensor:
        return self.norm(self.conv_fast_to_slow(fast)).relu_()


class _Stem(nn.Module):
    def __init__(self, channels: int, width: int, kernel: tuple[int, int, int]):
        super().__init__()
        padding = tuple(k // 2 for k in kernel)
        self.conv = nn.Conv3d(
            channels, width, kernel, stride=(1, 2, 2), padding=padding, bias=False
        )
        self.norm = nn.BatchNorm3d(width)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.norm(self.conv(x)).relu_())


class _Stage(nn.Module):
    def __init__(self, channels, width, out, depth, kernel, stride):
        super().__init__()
        self.res_blocks = nn.Sequential(
            _Bottleneck(channels, width, out, kernel, stride),
            *(_Bottleneck(out, width, out, kernel, 1) for _ in range(depth - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_blocks(x)


class _Bottleneck(nn.Module):
    def __init__(self, channels, width, out, kernel, stride):
        super().__init__()
        if channels != out or stride != 1:
            self.branch1_conv = nn.Conv3d(
                channels, out, 1, stride=(1, stride, stride), bias=False
            )
            self.branch1_norm = nn.BatchNorm3d(out)
        self.branch2 = _Branch(channels, width, out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        short = x
        if hasattr(self, "branch1_conv"):
            short = self.branch1_norm(self.branch1_conv(x))
        return (short + self.branch2(x)).relu_()


class _Branch(nn.Module):
    def __init__(self, channels, width, out, kernel, stride):
        super().__init__()
        self.conv_a = nn.Conv3d(
            channels, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False
        )
        self.norm_a = nn.BatchNorm3d(width)
        self.conv_b = nn.Conv3d(
            width,
            width,
            (1, 3, 3),
            stride=(1, stride, stride),
            padding=(0, 1, 1),
            bias=False,
        )
        self.norm_b = nn.BatchNorm3d(width)
        self.conv_c = nn.Conv3d(width, out, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.conv_a(x)).relu_()
        x = self.norm_b(self.conv_b(x)).relu_()
        return self.norm_c(self.conv_c(x))


class _Head(nn.Module):
    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.proj = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)
