"""Diffusion features and frames of two views in, quality and weight per frame out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from diffqa_features.learned.diffvqa.mamba import FrameMamba


@dataclass(frozen=True)
class Sizes:
    """Widths of the network; the paper gives none."""

    width: int
    mamba: bool
    mamba_size: int
    patch_size: int
    mamba_width: int
    mamba_layers: int
    mamba_state: int
    change: bool = False
    """Magnitudes of raw changes and statistics over time; False is the paper's TDM."""


@dataclass
class Clips:
    """A padded batch of clips in one view."""

    features: torch.Tensor  # (B, T, C, g, g) float32: four levels, then the latent
    frames: torch.Tensor | None  # (B, T, s, s, 3) uint8
    changes: torch.Tensor | None  # (B, T, C) float32, see `mean_changes`


class DiffVQANetwork(nn.Module):
    """Stage 2 of DiffVQA: the first view weights the frames, the last one grades them.

    A single view does both. With `Sizes.change`, either head also sees what the other
    view says of the whole clip.

    Parameters
    ----------
    channels : sequence of int
        Values kept of the UNet's four levels, and of the latent.
    views : sequence of str
        ``"resize"``, ``"crop"`` or both, in this order.
    sizes : Sizes
    seed : int
        Seed of the initial weights; the global generator is not changed.
    """

    def __init__(
        self, channels: Sequence[int], views: Sequence[str], sizes: Sizes, seed: int
    ):
        super().__init__()
        self._views = tuple(views)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # and no accelerator's
            self.branches = nn.ModuleDict(
                {view: Branch(channels, sizes) for view in self._views}
            )
            branch = self.branches[self._views[0]]
            described = branch.described
            self._shares = sizes.change and len(self._views) > 1
            if self._shares:
                described += branch.described_clip
            self.weigh = _head(described, sizes.width)
            self.grade = _head(described, sizes.width)
        # All frames weigh the same until there is a reason.
        nn.init.zeros_(self.weigh[-1].weight)

    def forward(
        self, clips: Mapping[str, Clips], mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Grade and weight the frames of clips.

        Parameters
        ----------
        clips : mapping of str to Clips
            By view.
        mask : bool tensor of shape (B, T)
            True at frames, False after a clip's end.

        Returns
        -------
        quality, weights : tensors of shape (B, T)
            The weights of a clip sum to 1. Both are 0 after its end.
        described : tensor of shape (B, D)
            The branches' descriptions of the whole clip, view by view.
        """
        told = {view: self.branches[view](clips[view], mask) for view in self._views}
        of_clip = [self.branches[view].of_clip(told[view]) for view in self._views]
        first, last = told[self._views[0]], told[self._views[-1]]
        if self._shares:
            first = torch.cat([first, of_clip[-1]], -1)
            last = torch.cat([last, of_clip[0]], -1)
        logits = self.weigh(first)[..., 0].float()
        weights = logits.masked_fill(~mask, -torch.inf).softmax(1)
        quality = self.grade(last)[..., 0].float()
        # The first frame has its clip beside it, as all others.
        clip = torch.cat(of_clip, -1)[:, 0]
        return quality.masked_fill(~mask, 0.0), weights, clip.float()


class Branch(nn.Module):
    """One view: DFF, TDM and FFF over diffusion features, TCAB over the frames."""

    def __init__(self, channels: Sequence[int], sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.fusion = FeatureFusion(channels, width)
        self.frames = FrameFusion(2 * width, width)
        self.change = self.temporal = None
        self.widths = [width]
        if sizes.change:
            self.change = ChangeBranch(sum(channels), width)
            self.widths.append(width)
        if sizes.mamba:
            self.temporal = FrameMamba(
                sizes.mamba_size,
                sizes.patch_size,
                sizes.mamba_width,
                sizes.mamba_layers,
                sizes.mamba_state,
            )
            self.widths.append(sizes.mamba_width)
        self._beside = _statistics_beside if sizes.change else _mean_beside
        self._parts = 5 if sizes.change else 2
        self.described = self._parts * sum(self.widths)
        self.described_clip = self.described - sum(self.widths)

    def forward(self, clips: Clips, mask: torch.Tensor) -> torch.Tensor:
        """Describe every frame together with its clip: (B, T, described)."""
        fused = self.fusion(clips.features.flatten(0, 1)).unflatten(0, mask.shape)
        if self.change is None:
            told = [self.frames(with_change(fused), mask)]
        else:
            entered, changed = self.change(clips.changes / self.fusion.scale, mask)
            over = entered[..., None, None].expand_as(fused)
            told = [self.frames(torch.cat([fused, over], 2), mask), changed]
        if self.temporal is not None:
            told.append(self.temporal(clips.frames, mask.sum(1)))
        return torch.cat(
            [part for each in told for part in self._beside(each, mask)], -1
        )

    def of_clip(self, described: torch.Tensor) -> torch.Tensor:
        """The clip's part of a frame's description (..., described)."""
        return torch.cat(
            [
                part[..., width:]
                for part, width in zip(
                    described.split([self._parts * w for w in self.widths], -1),
                    self.widths,
                    strict=True,
                )
            ],
            -1,
        )


class FeatureFusion(nn.Module):
    """DFF: features of all levels become one map of `width` channels.

    A 1 x 1 convolution per level (the paper's dimension adjustment), concatenation with
    the latent, a 3 x 3 convolution, then channel and spatial attention. Features are
    already pooled to one grid: average pooling and a 1 x 1 convolution commute.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        *levels, latent = channels
        self._channels = list(channels)
        # Of training features, so that levels of any scale train alike.
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("scale", torch.ones(sum(channels)))
        self.adjust = nn.ModuleList(nn.Conv2d(level, width, 1) for level in levels)
        self.fuse = nn.Conv2d(len(levels) * width + latent, width, 3, padding=1)
        self.attend = nn.Sequential(ChannelAttention(width), SpatialAttention())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Fuse (N, C, g, g) to (N, width, g, g)."""
        features = (features - self.mean[:, None, None]) / self.scale[:, None, None]
        *levels, latent = features.split(self._channels, 1)
        adjusted = [
            adjust(level) for adjust, level in zip(self.adjust, levels, strict=True)
        ]
        return self.attend(F.silu(self.fuse(torch.cat([*adjusted, latent], 1))))


class ChannelAttention(nn.Module):
    """A factor per channel, from its mean and its maximum over the map."""

    def __init__(self, width: int):
        super().__init__()
        inner = max(width // 4, 1)
        self.tell = nn.Sequential(
            nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, width)
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        told = self.tell(maps.mean((2, 3))) + self.tell(maps.amax((2, 3)))
        return maps * told.sigmoid()[:, :, None, None]


class SpatialAttention(nn.Module):
    """A factor per position, from the mean and the maximum over channels."""

    def __init__(self):
        super().__init__()
        # 3 x 3, not CBAM's 7 x 7: the grid itself may be four places wide.
        self.tell = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        told = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)
        return maps * self.tell(told).sigmoid()


def with_change(maps: torch.Tensor) -> torch.Tensor:
    """TDM: maps (B, T, C, g, g) concatenated with their change from the last frame.

    The change of the first frame is 0.
    """
    change = torch.zeros_like(maps)
    change[:, 1:] = maps[:, 1:] - maps[:, :-1]
    return torch.cat([maps, change], 2)


def log_change(changes: torch.Tensor) -> torch.Tensor:
    """``log(change + 1e-3)``; of standardised features, a freeze is the same in all."""
    return torch.log(changes + 1e-3)


class ChangeBranch(nn.Module):
    """The log change of features over time, as it is and against its clip's mean.

    Content and motion determine how much a clip changes throughout; only against that
    do a freeze and a jump show.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        # Of the logarithms in training clips.
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.enter = nn.Linear(2 * channels, width)
        self.time = nn.Conv1d(width, width, 3, padding=1)

    def forward(
        self, changes: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From changes (B, T, C): vectors (B, T, width) before and after time.

        Changes are those of standardised features, NaN where unknown.
        """
        known = mask[..., None] & ~changes.isnan()
        # What is unknown is taken to be as in an average clip.
        size = ((log_change(changes) - self.mean) / self.scale).masked_fill(~known, 0.0)
        usual = size.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
        against = (size - usual).masked_fill(~known, 0.0)
        entered = F.silu(self.enter(torch.cat([size, against], -1))) * mask[..., None]
        after = F.silu(self.time(entered.transpose(1, 2))).transpose(1, 2)
        return entered, after


class FrameFusion(nn.Module):
    """FFF: fuse the frames of a clip, for any number of frames.

    The paper concatenates N frames before a convolution and flattens, which fixes N.
    Here: a spatial convolution, a spatial mean, and a temporal convolution.
    """

    def __init__(self, entering: int, width: int):
        super().__init__()
        self.space = nn.Conv2d(entering, width, 3, padding=1)
        self.time = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Bring maps (B, T, C, g, g) to vectors (B, T, width)."""
        seen = F.silu(self.space(maps.flatten(0, 1))).mean((2, 3))
        seen = seen.unflatten(0, mask.shape) * mask[..., None]
        # Zeros behind the end are what the convolution itself pads with.
        return F.silu(self.time(seen.transpose(1, 2))).transpose(1, 2)


def _mean_beside(vectors: torch.Tensor, mask: torch.Tensor):
    """Concatenate vectors of frames (B, T, C) with the mean over their clip."""
    vectors = vectors.masked_fill(~mask[..., None], 0.0)
    mean = vectors.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return vectors, mean.expand_as(vectors)


def _statistics_beside(vectors: torch.Tensor, mask: torch.Tensor):
    """Concatenate vectors with mean, deviation, minimum and maximum over their clip."""
    vectors, mean = _mean_beside(vectors, mask)
    outside = ~mask[..., None]
    squares = (vectors - mean).square().masked_fill(outside, 0.0).sum(1, keepdim=True)
    # The root has no gradient at 0, where all frames are alike.
    spread = (squares / mask.sum(1)[:, None, None] + 1e-6).sqrt()
    low = vectors.masked_fill(outside, torch.inf).amin(1, keepdim=True)
    high = vectors.masked_fill(outside, -torch.inf).amax(1, keepdim=True)
    return vectors, mean, *(s.expand_as(vectors) for s in (spread, low, high))


def _head(entering: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(entering),
        nn.Linear(entering, width),
        nn.SiLU(),
        nn.Linear(width, 1),
    )
