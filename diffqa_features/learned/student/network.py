"""The student network: pixels in, a score and a quality map out."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from diffqa_features.learned.student.efficientnet import EfficientNetBody
from diffqa_features.learned.student.tiny_network import TinyBody

_HIDDEN = 512
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class StudentNetwork(nn.Module):
    """A convolutional body and a head.

    Parameters
    ----------
    architecture : dict
        ``{"kind": "tiny"}``, or ``{"kind": "efficientnet", "config": ...,
        "symmetric": bool}``.
    head : {"map", "pooled"}
        Whether the score is computed from the quality map or from pooled features.
    map_shape : (int, int, int) or None
        Channels, height and width of the quality map, which ``"map"`` needs.
    imagenet : bool
        Whether pixels get ImageNet's mean and standard deviation.
    """

    def __init__(self, architecture, head, map_shape, imagenet, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # and no accelerator's
            if architecture["kind"] == "tiny":
                self.body = TinyBody()
            else:
                self.body = EfficientNetBody(
                    architecture["config"], architecture["symmetric"]
                )
            if head == "map":
                self.head = MapHead(self.body.width, map_shape)
            else:
                self.head = PooledHead(
                    self.body.pooled_width, self.body.width, map_shape
                )
        self.imagenet = imagenet

    def forward(self, pixels: torch.Tensor):
        """Pixels (N, 3, H, W) in [0, 1] -> scores (N,) and maps (N, C, h, w) or None.

        Scores are in units of the spread of the target.
        """
        if self.imagenet:
            mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
            pixels = (pixels - mean) / std
        return self.head(*self.body(pixels))


class MapHead(nn.Module):
    """The head of DP-IQA's student: grid -> map at twice the size -> score.

    Nearest-neighbour resampling matches the teacher's size; three layers read the whole
    map.
    """

    def __init__(self, width: int, map_shape):
        super().__init__()
        channels, *self.size = map_shape
        self.enlarge = nn.ConvTranspose2d(
            width, channels, 3, stride=2, padding=1, output_padding=1
        )
        self.score = nn.Sequential(
            nn.Linear(math.prod(map_shape), _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 1),
        )

    def forward(self, grid, pooled):
        maps = functional.relu(self.enlarge(grid))
        maps = functional.interpolate(maps, size=self.size, mode="nearest")
        return self.score(maps.flatten(1))[:, 0], maps


class PooledHead(nn.Module):
    """Pooled features -> score; if requested, a map in parallel, from the same grid."""

    def __init__(self, pooled_width: int, width: int, map_shape=None, hidden=64):
        super().__init__()
        self.score = nn.Sequential(
            _RowNorm(pooled_width),
            nn.Linear(pooled_width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        self.map = None
        if map_shape is not None:
            channels, *self.size = map_shape
            self.map = nn.Conv2d(width, channels, 1)

    def forward(self, grid, pooled):
        maps = None
        if self.map is not None:
            maps = functional.relu(self.map(grid))
            maps = functional.interpolate(maps, size=self.size, mode="nearest")
        return self.score(pooled)[:, 0], maps


class _RowNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors that also accepts a batch of one in training."""

    def forward(self, rows):
        if self.training and len(rows) == 1:
            known = self.running_mean, self.running_var, self.weight, self.bias
            return functional.batch_norm(rows, *known, eps=self.eps)
        return super().forward(rows)


class Scorer(nn.Module):
    """uint8 pixels (N, H, W, 3) -> scores (N,) in the units of the target.

    The exported module: its only input is the resized picture.
    """

    def __init__(self, network: StudentNetwork, slope: float, intercept: float):
        super().__init__()
        self.network, self.slope, self.intercept = network, slope, intercept

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        return self.intercept + self.slope * self.network(pixels)[0]


def fold_normalisation(network: nn.Module) -> nn.Module:
    """Fold normalisation into each convolution of the tiny body, in place."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential) or len(module) < 2:
            continue
        if isinstance(module[0], nn.Conv2d) and isinstance(module[1], nn.BatchNorm2d):
            module[0] = nn.utils.fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    return network
