"""Views in, latents and records out: runs the backbone in batches that fit."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch

from diffqa_features._backbone.backbone import Backbone, load_backbone
from diffqa_features._backbone.capture import Tap
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._engine.kinds import Kind, Observation, Recipe
from diffqa_features._media.views import to_pixels
from diffqa_features._utils.batching import in_halves
from diffqa_features._utils.hashing import make_seed
from diffqa_features._utils.profiling import timed
from diffqa_features._utils.statistics import all_finite

log = logging.getLogger(__name__)

# On two CPU cores a row of Stable Diffusion at 256 pixels costs a quarter more alone
# with its second prompt than among 16, where weights are read once for all rows. The
# weights of a small UNet stay in the cache, and many rows would drive them out: `tiny`
# at 192 pixels takes 20 % longer with 16 rows than with 4. Of small pictures more rows
# fit beside them, and most of a pass is overhead: at 48 pixels a row costs a third.
_ROWS_ON_CPU, _ROWS_ON_GPU, _MOST_ROWS = 16, 32, 32
_IN_CACHE = 2**26  # bytes
_CELLS = 4 * 48 * 48 * 32  # of the first level's output: four rows of `tiny` at 192
_weight_bytes = WeakKeyDictionary()  # of each UNet; slow to sum
_TEXTS_KEPT = 512
_NOISES_KEPT = 64


class Passes:
    """The backbone during one call of an estimator.

    Stages have separate batch sizes, because they benefit differently: on a CPU the VAE
    is fastest with single pictures and the UNet from about eight rows. A batch that
    runs out of memory is retried in halves.

    Parameters
    ----------
    backbone : str
        Alias, hub id or folder.
    device, dtype : str or None
    seed : int
        Seeds the noise, with the timestep and the shape of the latents.
    batch_size : int or None
        UNet rows (frame and prompt) per pass.
    """

    def __init__(self, backbone, device, dtype, seed, batch_size=None):
        self._name = backbone
        self._device = device
        self._dtype = dtype
        self._seed = seed
        self._batch_size = batch_size
        self._most = math.inf
        self._vae_batch = None
        self._texts = OrderedDict()
        self._noises = OrderedDict()

    @cached_property
    def backbone(self):
        return load_backbone(self._name, self._device, self._dtype)

    def _rows(self, shape=None):
        """UNet rows per pass of such latents."""
        return min(self._batch_size or rows_per_pass(self.backbone, shape), self._most)

    @timed("vae")
    def latents(
        self, views: Sequence[np.ndarray], normalization: str = "vae"
    ) -> np.ndarray:
        """Encode uint8 views of one size: float32 (N, C, h, w)."""
        if self._vae_batch is None:
            on_cpu = self.backbone.device.type == "cpu"
            self._vae_batch = 1 if on_cpu else self._rows()

        def encode(chunk):
            pixels = to_pixels(np.stack(chunk), normalization)
            return self.backbone.encode_images(pixels).cpu().numpy()

        parts, self._vae_batch = in_halves(encode, views, self._vae_batch)
        return np.concatenate(parts)

    def observe(
        self,
        recipe: Recipe,
        kinds: Sequence[Kind],
        timestep: int,
        latents: Sequence[np.ndarray],
        texts: Sequence[str],
    ) -> list[dict[Kind, np.ndarray]]:
        """Run rows (latent, prompt) at one timestep; one dict of records per row.

        Records are flat; float64 for differences of nearly equal values, else float32.
        """

        def run(chunk):
            rows = self._observe(self.backbone, recipe, kinds, timestep, chunk)
            bad = [i for i, row in enumerate(rows) if not all_finite(row.values())]
            if self.backbone.dtype != torch.float32 and bad:
                log.warning(
                    "%s overflows in %s at timestep %d: %d rows are taken in float32.",
                    self._name,
                    str(self.backbone.dtype).removeprefix("torch."),
                    timestep,
                    len(bad),
                )
                exact = load_backbone(self._name, self._device, "float32")
                # Those only: a row must not depend on its neighbours.
                again = [chunk[i] for i in bad]
                again = self._observe(exact, recipe, kinds, timestep, again)
                for i, row in zip(bad, again, strict=True):
                    rows[i] = row
            return rows

        pairs = list(zip(latents, texts, strict=True))
        size = self._rows(latents[0].shape)
        parts, fits = in_halves(run, pairs, size)
        if fits < size:  # no more of any size: memory is short
            self._most = fits
        return [row for part in parts for row in part]

    @timed("unet")
    @torch.inference_mode()
    def _observe(self, backbone, recipe, kinds, timestep, pairs):
        latents = torch.from_numpy(np.stack([latent for latent, _ in pairs]))
        latents = latents.to(backbone.device)
        noise = self.noise(timestep, latents.shape[1:]).to(backbone.device)
        noisy = backbone.add_noise(latents, timestep, noise.expand_as(latents))
        texts = [self._text(backbone, text) for _, text in pairs]
        conditioning = Conditioning.stack(texts)
        look = Observation(
            content=conditioning.content.to(backbone.device),
            grid=tuple(latents.shape[2:]),
            statistics=recipe.statistics,
            noise=noise.expand_as(latents),
            to_noise=lambda output: backbone.to_noise(output, noisy, timestep),
        )
        taps = [
            Tap(module, see)
            for kind in kinds
            for place in recipe.places(kind)
            for module, see in kind.taps(place, look).items()
        ]
        # It ends where the last kind has seen what it needs.
        rows = self._rows(latents.shape[1:])
        backbone.run(
            noisy, timestep, conditioning, taps, whole=False, compiled_rows=rows
        )
        with timed("pool"):
            records = {
                kind: torch.cat(recipe.in_order(kind, look), 1).cpu().numpy()
                for kind in kinds
            }
        return [
            {kind: values[i] for kind, values in records.items()}
            for i in range(len(pairs))
        ]

    @timed("text")
    def _text(self, backbone, text):
        key = (text, backbone.dtype)
        if key not in self._texts:
            self._texts[key] = backbone.condition([text])
            if len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]

    def noise(self, timestep: int, shape: Sequence[int]) -> torch.Tensor:
        """Noise (C, h, w) in float32, the same for every row, machine and device."""
        key = (timestep, tuple(shape))
        if key not in self._noises:
            self._noises[key] = draw_noise(self._seed, timestep, shape)
            if len(self._noises) > _NOISES_KEPT:
                self._noises.popitem(last=False)
        return self._noises[key]


def rows_per_pass(backbone: Backbone, shape: Sequence[int] | None = None) -> int:
    """UNet rows (picture and prompt) per pass, of latents (C, h, w)."""
    if backbone.device.type != "cpu":
        return _ROWS_ON_GPU
    unet = backbone.unet
    if unet not in _weight_bytes:
        weights = unet.parameters()
        _weight_bytes[unet] = sum(p.numel() * p.element_size() for p in weights)
    if _weight_bytes[unet] > _IN_CACHE:
        return _ROWS_ON_CPU
    rows = min(_ROWS_ON_CPU, max(4, 2 * torch.get_num_threads()))
    if shape is None:
        return rows
    cells = unet.config.block_out_channels[0] * math.prod(shape[1:])
    return max(rows, min(_MOST_ROWS, _CELLS // cells))


def draw_noise(seed: int, timestep: int, shape: Sequence[int]) -> torch.Tensor:
    """Noise in float32 on the CPU that depends only on seed, timestep and shape."""
    words = f"{seed}|{timestep}|{'x'.join(map(str, shape))}"
    generator = torch.Generator().manual_seed(make_seed(words))
    return torch.randn(tuple(shape), generator=generator)
