"""DP-IQA's network: latents and pixels in, quality maps and scores out, in one pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from diffqa_features._backbone.capture import Adapter, Tap
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features.learned.dpiqa.decoder import Quality, QualityDecoder

_GAMMA = 1e-4
_FULL_WIDTH, _FULL_CHANNELS = 512, 1280  # of the decoder, and of the widest UNet level


class TextAdapter(nn.Module):
    """T + γ · MLP(T), with γ small at first."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), _GAMMA))
        self.enter = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.enter(tokens))
        return tokens + self.gamma * self.leave(hidden)


class DPIQANetwork(nn.Module):
    """Text adapter, image adapter and decoder around a UNet, its own or a shared one.

    Parameters
    ----------
    unet : UNet2DConditionModel
        The shared UNet, which is never modified.
    tokens : tensor of shape (K, C)
        One per prompt. They are stored with the weights, so a trained network needs no
        text encoder.
    text_adapter, image_adapter : bool
        Whether they exist.
    own_unet : bool
        Train a copy of the UNet, without its unused output convolution.
    factor : int
        Pixels per latent cell, along each side.
    grid : int
        Latent cells along each side.
    width : int or None
        Channels of the decoder; None scales the published 512 with the UNet.
    timestep : int
    seed : int or None
        Seed of the initial weights. None leaves them uninitialised, for
        :meth:`load_weights`.
    """

    def __init__(
        self,
        unet,
        tokens,
        *,
        own_unet,
        factor,
        grid,
        text_adapter=True,
        image_adapter=True,
        width=None,
        timestep=1,
        seed=0,
    ):
        super().__init__()
        from diffusers.models.adapter import FullAdapter

        channels = list(unet.config.block_out_channels)
        self.timestep = timestep
        self.register_buffer("tokens", tokens)
        # On meta: torch would draw first weights from its global generator.
        with torch.device("meta"):
            self.text = TextAdapter(tokens.shape[1]) if text_adapter else None
            self.adapter = None
            if image_adapter:
                self.adapter = FullAdapter(3, channels, downscale_factor=factor)
            width = width or default_width(channels)
            self.decoder = QualityDecoder(channels, grid, width)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            for part in (self.text, self.adapter, self.decoder):
                if part is not None:
                    _draw(part.to_empty(device="cpu"), generator)
            if self.text is not None:
                nn.init.constant_(self.text.gamma, _GAMMA)
        if own_unet:
            self.unet = _own(unet, with_weights=seed is not None)

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> DPIQANetwork:
        """Use exactly these tensors, without a copy, as the network's weights."""
        self.load_state_dict(weights, strict=True, assign=True)
        return self

    def forward(self, backbone, latents, pixels, condition=None) -> Quality:
        """Read N latents (N, C, h, w) and their pixels (N, 3, H, W) in [0, 1].

        The latents are not noised. `condition` is the result of :meth:`condition`, for
        callers with several batches and the same weights.
        """
        unet = self._unet(backbone)
        if condition is None:
            condition = self.condition_of(backbone)
        # The text's keys and values are in `condition`: one token holds its place.
        place = Conditioning(latents.new_zeros(1, 1, self.tokens.shape[1]))
        adapters = {path: _replace_by(v) for path, v in condition.items()}
        changes = () if self.adapter is None else self.adapter(pixels)
        for level, change in zip(unet.down_blocks, changes):
            adapters[_last_layer(unet, level)] = _add(change)
        states = {}
        backbone.run(
            latents,
            self.timestep,
            place,
            [
                Tap(f"up_blocks.{i}", _see(states, i))
                for i in range(len(unet.up_blocks))
            ],
            whole=False,
            adapters=adapters,
            unet=unet,
        )
        return self.decoder([states[i] for i in sorted(states, reverse=True)])

    def condition(self, unet) -> dict[str, torch.Tensor]:
        """Outputs of the layers that read text: path -> keys or values (1, K, C).

        They depend on the weights but not on the picture: repeating the text for each
        of B pictures would compute them B times.
        """
        adapted = self.tokens if self.text is None else self.text(self.tokens)
        adapted = adapted[None]
        found = {}
        for path, attention in text_attentions(unet):
            states = adapted
            if attention.norm_cross is not None:
                states = attention.norm_encoder_hidden_states(states)
            found[f"{path}.to_k"] = attention.to_k(states)
            found[f"{path}.to_v"] = attention.to_v(states)
        return found

    def condition_of(self, backbone) -> dict[str, torch.Tensor]:
        """The same for the UNet that this network uses."""
        # The lock: layers of a shared UNet may carry the hooks of another thread.
        with backbone.lock:
            return self.condition(self._unet(backbone))

    def _unet(self, backbone) -> nn.Module:
        return self.unet if hasattr(self, "unet") else backbone.unet


def default_width(channels: list[int]) -> int:
    """512 for Stable Diffusion, narrower in proportion for narrower models."""
    scaled = max(channels) * _FULL_WIDTH / _FULL_CHANNELS
    return 16 * max(1, round(scaled / 16))


def text_attentions(unet) -> Iterator[tuple[str, nn.Module]]:
    """The layers whose keys and values come from the text, by path."""
    for path, module in unet.named_modules():
        if getattr(module, "attn2", None) is not None:
            # Where there is no self-attention the first layer reads the text too.
            names = ["attn1"] if module.only_cross_attention else []
            for name in [*names, "attn2"]:
                yield f"{path}.{name}", getattr(module, name)


def _last_layer(unet, level):
    """Path of the module that computes a level's last skip, the downsampler's input."""
    index = next(i for i, block in enumerate(unet.down_blocks) if block is level)
    kind = "attentions" if hasattr(level, "attentions") else "resnets"
    return f"down_blocks.{index}.{kind}.{len(getattr(level, kind)) - 1}"


def _add(change) -> Adapter:
    def adapt(entered, left):
        if isinstance(left, tuple):
            return (left[0] + change.to(left[0]), *left[1:])
        return left + change.to(left)

    return adapt


def _replace_by(value) -> Adapter:
    return lambda entered, left: value.to(left).expand(len(left), -1, -1)


def _see(states, index):
    return lambda state: states.update({index: state})


def _own(unet, with_weights):
    if with_weights:
        own = copy.deepcopy(unet).requires_grad_(True)
    else:
        with torch.device("meta"):
            own = type(unet).from_config(unet.config)
    # A pass ends before them.
    own.conv_norm_out, own.conv_out = None, nn.Identity()
    return own.eval()


def _draw(module, generator):
    """Initial weights as drawn by torch, from the given generator."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for value in layer.parameters(recurse=False):
                nn.init.uniform_(value, -bound, bound, generator=generator)
