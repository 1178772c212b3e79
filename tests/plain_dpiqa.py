"""DP-IQA written straight down with diffusers' own means, for comparison.

Everything is computed for every picture of every step: the whole VAE is there, the text
is repeated over the batch before anything reads it, and the UNet runs to its end. The
names of the parts, and the members that nothing uses, are those of a checkpoint of the
authors' code as far as they are known.
"""

import torch
from diffusers.models.adapter import FullAdapter
from torch import nn
from torch.nn import functional as F

from diffqa_features.learned.dpiqa.released import decoder_name


def text_name(name):
    """A weight of our text adapter -> its name in the authors'."""
    layer, kind = name.split(".")
    return f"{ {'enter': 'fc.0', 'leave': 'fc.2'}[layer] }.{kind}"


def plain_name(name):
    """A weight of our network -> its name in `PlainDPIQA`."""
    part, _, rest = name.partition(".")
    if part == "text":
        return rest if rest == "gamma" else f"text_adapter.{text_name(rest)}"
    return f"qfd.{decoder_name(rest)}" if part == "decoder" else name


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        inner = max(channels // 16, 4)
        self.fc = nn.Sequential(
            nn.Linear(channels, inner, bias=False),
            nn.ReLU(),
            nn.Linear(inner, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class Decoder(nn.Module):
    """Four states, finest first, to a score and a map."""

    def __init__(self, channels, grid, width):
        super().__init__()
        self.grid = grid
        for index, count in enumerate(channels, 1):
            setattr(self, f"conv{index}", nn.Conv2d(count, width, 3, padding=1))
            setattr(self, f"se{index}", Gate(width))
        self.count = len(channels)
        self.fuse_conv = nn.Conv2d(width * len(channels), width, 3, padding=1)
        self.se_fuse = Gate(width)
        self.bnc1 = nn.BatchNorm2d(width)  # unused, as what follows below
        sizes = [width, max(width // 4, 8), max(width // 16, 8), 8]
        for index in (1, 2, 3):
            layer = nn.Conv2d(sizes[index - 1], sizes[index], 1)
            setattr(self, f"conv_score{index}", layer)
        self.fc1 = nn.Linear(8 * grid * grid, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 1)
        self.classifier_dist = nn.Linear(width, 24)

    def forward(self, states):
        branches = []
        for index, state in enumerate(states, 1):
            state = F.interpolate(state, size=(self.grid, self.grid), mode="bicubic")
            state = getattr(self, f"conv{index}")(state)
            branches.append(getattr(self, f"se{index}")(state))
        x = self.se_fuse(self.fuse_conv(torch.cat(branches, dim=1)))
        for index in (1, 2, 3):
            x = torch.relu(getattr(self, f"conv_score{index}")(x))
        hidden = torch.relu(self.fc2(torch.relu(self.fc1(x.reshape(len(x), -1)))))
        return self.fc3(hidden)[:, 0], x


class Text(nn.Module):
    """The text adapter's two layers."""

    def __init__(self, width):
        super().__init__()
        layers = nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        self.fc = nn.Sequential(*layers)


class PlainDPIQA(nn.Module):
    """A teacher around whole diffusers models."""

    def __init__(self, unet, vae, tokens, image_size, width):
        super().__init__()
        channels = list(unet.config.block_out_channels)
        self.unet = unet
        self.vae = vae
        self.tokens = tokens
        levels = vae.config.get("num_encoder_blocks") or vae.config.block_out_channels
        self.factor = 2 ** (len(levels) - 1)
        self.adapter = FullAdapter(3, channels, downscale_factor=self.factor)
        self.text_adapter = Text(tokens.shape[1])
        self.gamma = nn.Parameter(torch.full((tokens.shape[1],), 1e-4))
        # The states that leave the way up are as wide as those of the way down.
        self.qfd = Decoder(channels, image_size // self.factor, width)

    def forward(self, pixels):
        """Scores (N,) and maps of pixels (N, 3, H, W) in [0, 1]."""
        with torch.no_grad():
            encoded = self.vae.encode(pixels)
            known = hasattr(encoded, "latent_dist")
            latents = encoded.latent_dist.mode() if known else encoded.latents
            latents = latents * self.vae.config.scaling_factor
        text = self.tokens + self.gamma * self.text_adapter.fc(self.tokens)
        text = text[None].repeat(len(pixels), 1, 1)
        states = []
        handles = [
            block.register_forward_hook(lambda module, args, out: states.append(out))
            for block in self.unet.up_blocks
        ]
        try:
            self.unet(
                latents,
                pixels.new_ones(len(pixels)),
                encoder_hidden_states=text,
                down_intrablock_additional_residuals=self.adapter(pixels),
            )
        finally:
            for handle in handles:
                handle.remove()
        return self.qfd(states[::-1])
