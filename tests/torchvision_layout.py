"""EfficientNet under torchvision's names, written from its published description.

An independent computation: symmetric padding, its own numbering, its own forward pass.
Only as much of it as a test needs; torchvision itself is no dependency.
"""

import math

import torch
from torch import nn


def divisible(channels, divisor=8):
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def norm_activation(taken, made, kernel, stride=1, groups=1, activation=True):
    layers = [
        nn.Conv2d(
            taken, made, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(made, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([nn.SiLU()] if activation else []))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        scale = nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(scale))


class MBConv(nn.Module):
    def __init__(self, taken, made, expand, kernel, stride):
        super().__init__()
        wide = divisible(taken * expand)
        layers = [norm_activation(taken, wide, 1)] if wide != taken else []
        layers += [
            norm_activation(wide, wide, kernel, stride, groups=wide),
            SqueezeExcitation(wide, max(1, taken // 4)),
            norm_activation(wide, made, 1, activation=False),
        ]
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and taken == made

    def forward(self, x):
        return self.block(x) + x if self.residual else self.block(x)


class EfficientNet(nn.Module):
    # expand, kernel, stride, channels in and out, repeats
    STAGES = (
        (1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3), (6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4),
        (6, 3, 1, 192, 320, 1),
    )  # fmt: skip

    def __init__(self, width, depth):
        super().__init__()
        features = [norm_activation(3, divisible(32 * width), 3, 2)]
        for expand, kernel, stride, taken, made, repeats in self.STAGES:
            taken, made = divisible(taken * width), divisible(made * width)
            blocks = []
            for _ in range(math.ceil(repeats * depth)):
                blocks.append(MBConv(taken, made, expand, kernel, stride))
                taken, stride = made, 1
            features.append(nn.Sequential(*blocks))
        self.out = divisible(1280 * width) if width != 1.0 else 4 * taken
        features.append(norm_activation(taken, self.out, 1))
        self.features = nn.Sequential(*features)

    def forward(self, x):
        return self.features(x)


class ReleasedStudent(nn.Module):
    """The layout of DP-IQA's student: this network and three linear layers."""

    def __init__(self, width, depth):
        super().__init__()
        self.base_model = EfficientNet(width, depth)
        out = self.base_model.out
        self.conv_transpose = nn.ConvTranspose2d(
            out, 8, 3, stride=2, padding=1, output_padding=1
        )
        self.fc1 = nn.Linear(8 * 64 * 64, 512)
        self.fc2 = nn.Linear(512, 512)
        self.fc3 = nn.Linear(512, 1)

    def forward(self, x):
        maps = torch.relu(self.conv_transpose(self.base_model(x)))
        rows = torch.arange(64) * maps.shape[2] // 64  # nearest neighbours
        maps = maps[:, :, rows][:, :, :, rows]
        x = torch.relu(self.fc2(torch.relu(self.fc1(maps.flatten(1)))))
        return self.fc3(x)[:, 0], maps


def randomised(network, seed=0):
    """Every number random, those of normalisation too: none may be the default."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif "num_batches" not in name:
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(0, fan**-0.5, generator=generator)
    return network.eval()
