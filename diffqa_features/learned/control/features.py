"""Latents in, features of the last step of a controlled reverse chain out (DiffVQA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffqa_features._backbone.blocks import Stage
from diffqa_features._backbone.capture import Tap
from diffqa_features._backbone.sampling import decode, walk_back
from diffqa_features._backbone.weights import load_decoder, quiet
from diffqa_features._engine.parallel import put_or_disable
from diffqa_features._engine.passes import draw_noise, rows_per_pass
from diffqa_features._utils.batching import in_halves
from diffqa_features._utils.hashing import make_key
from diffqa_features.learned._training import precision
from diffqa_features.learned.control.network import run_controlled

LATENT = "latent"
"""The name that F_Latent has among the maps."""

Reduce = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Chain:
    """What determines the features of a frame, besides its latent and the backbone."""

    stages: tuple[Stage, ...]
    n_steps: int = 1
    last_timestep: int = 0
    seed: int = 0
    dtype: torch.dtype = torch.float32
    control: str = ""
    """Hash of the controller's weights, see `hash_values`; "" is without."""
    start: int | None = None
    """Timestep that frames are noised to; None begins at nothing but noise."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps: F_MS, and F_Latent as the last."""
        return (*(stage.name for stage in self.stages), LATENT)

    def timesteps(self, count: int) -> list[int]:
        """Decreasing timesteps of the chain, out of `count`."""
        first = count - 1 if self.start is None else self.start
        steps = np.linspace(self.last_timestep, first, self.n_steps)
        return steps.round().astype(int)[::-1].tolist()

    @property
    def facts(self) -> tuple:
        """Everything except the stages, which are in the keys one by one."""
        return (
            self.n_steps, self.last_timestep, self.seed, str(self.dtype), self.control,
            self.start,
        )  # fmt: skip

    def key(self, latent_key: str, name: str, reduction: str) -> str:
        """Store key of one map of one frame, with the name of its reduction."""
        return make_key(
            "controlled", latent_key, self.facts, name, reduction,
        )  # fmt: skip


def default_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The first level of the encoder, the middle, the first and last of the decoder."""
    names = {"down0", "mid", "up0", f"up{sum(s.name[:2] == 'up' for s in stages) - 1}"}
    return tuple(stage for stage in stages if stage.name in names)


@torch.no_grad()
def controlled_features(
    backbone,
    network,
    latents: Sequence[np.ndarray],
    chain: Chain,
    *,
    reduce: Reduce | None = None,
    batch_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Run the reverse chain for each frame and keep the features of its last step.

    Parameters
    ----------
    backbone : Backbone
    network : ControlNetModel or None
        Of :func:`make_control`; None leaves the frozen model alone.
    latents : sequence of N arrays (C, h, w)
        z_0 of the frames.
    chain : Chain
        With one step, z_0 itself is noised to the last timestep. With more, the chain
        starts from pure noise at the first timestep and knows the frame only through
        the network, unless `start` gives the timestep to noise z_0 to.
    reduce : callable, default=None
        Reduces a map (B, C, h, w), on the device, to what is kept. None keeps
        everything.
    batch_size : int, default=None
        Frames per pass; None chooses by device and size of the latents.

    Returns
    -------
    dict of str to ndarray of float32
        By `chain.names`: of each stage (N, C, h, w) as the decoder receives it, that is
        with the control added, and under ``"latent"`` the ẑ_0 of the last step. The
        noise is the same for every frame, so no frame depends on others.
    """
    device = backbone.device
    timesteps = chain.timesteps(len(backbone.alphas_cumprod))
    conditioning = backbone.condition([""])
    noise = draw_noise(chain.seed, timesteps[0], latents[0].shape).to(device)

    def run(chunk):
        clean = torch.from_numpy(np.stack(chunk)).to(device)
        seen = {}
        taps = [
            Tap(s.module, lambda hidden, name=s.name: seen.update({name: hidden}))
            for s in chain.stages
        ]
        control = None

        def step(noisy, t):
            nonlocal control
            # Taken at the last step only.
            at_end = taps if t == chain.last_timestep else ()
            with precision(device, chain.dtype):
                output, control = run_controlled(
                    backbone, network, noisy, clean, t, conditioning, at_end
                )
            return output

        start = noise.expand_as(clean)
        if len(timesteps) == 1 or chain.start is not None:
            start = backbone.add_noise(clean, timesteps[0], start)
        seen[LATENT] = walk_back(backbone, start, timesteps, step)
        if control is not None:
            _add_control(seen, chain.stages, network, control)
        maps = {name: seen[name].float() for name in chain.names}
        if reduce is not None:
            maps = {name: reduce(values) for name, values in maps.items()}
        return {name: values.cpu().numpy() for name, values in maps.items()}

    batch_size = batch_size or rows_per_pass(backbone, latents[0].shape)
    parts, _ = in_halves(run, latents, batch_size)
    return {name: np.concatenate([p[name] for p in parts]) for name in chain.names}


def stored_features(
    latents: Mapping[str, np.ndarray],
    chain: Chain,
    open_model: Callable[[], tuple],
    reduce: Reduce,
    reduction: str,
    *,
    store=None,
    batch_size: int | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Reduced features of frames, computed if the store does not have them.

    Parameters
    ----------
    latents : mapping of str to ndarray (C, h, w)
        Keyed by everything the latent depends on, as by :meth:`FrameSpec.key`.
    chain : Chain
        Its `control` must distinguish the possible results of `open_model`.
    open_model : callable
        Returns backbone and network (or None); called if something is missing.
    reduce : callable
        As in :func:`controlled_features`.
    reduction : str
        Name of `reduce`, part of the keys.
    store : FeatureStore, default=None
    batch_size : int, default=None

    Returns
    -------
    dict of str to dict of str to ndarray
        By the keys of `latents`, and then by `chain.names`.
    """
    known = {key: _recall(store, chain, key, reduction) for key in latents}
    missing = [key for key, maps in known.items() if len(maps) < len(chain.names)]
    if not missing:
        return known
    backbone, network = open_model()
    batch_size = batch_size or rows_per_pass(backbone, latents[missing[0]].shape)
    # Kept batch by batch, so that what was computed outlives a crash.
    for start in range(0, len(missing), batch_size):
        keys = missing[start : start + batch_size]
        maps = controlled_features(
            backbone, network, [latents[key] for key in keys], chain,
            reduce=reduce, batch_size=batch_size,
        )  # fmt: skip
        for i, key in enumerate(keys):
            known[key] = {name: maps[name][i] for name in chain.names}
        store = put_or_disable(
            store,
            {
                chain.key(key, name, reduction): known[key][name]
                for key in keys
                for name in chain.names
            },
        )
    return known


@torch.inference_mode()
def controlled_frames(
    backbone, network, latents: Sequence[np.ndarray], chain: Chain, **batching
) -> np.ndarray:
    """The latents at the end of the chain, decoded: uint8 (N, H, W, 3)."""
    ends = controlled_features(backbone, network, latents, chain, **batching)[LATENT]
    with torch.inference_mode(False), quiet():
        decoder = load_decoder(backbone.info).to(backbone.device)
    return np.stack(
        [decode(decoder, torch.from_numpy(e)[None].to(backbone.device)) for e in ends]
    )


def _add_control(seen, stages, network, control):
    """Add the control to the maps of encoder and middle."""
    skips, middle = control
    layers, levels = network.config.layers_per_block, len(network.down_blocks)
    # conv_in is the first skip; of a level the last leaves its downsampler, and the
    # innermost has none.
    leaving = {f"down{i}": (i + 1) * (layers + 1) for i in range(levels)}
    leaving[f"down{levels - 1}"] -= 1
    for stage in stages:
        if stage.name == "mid":
            seen["mid"] = seen["mid"] + middle
        elif stage.name in leaving:
            seen[stage.name] = seen[stage.name] + skips[leaving[stage.name]]


def _recall(store, chain, latent_key, reduction):
    if store is None:
        return {}
    keys = {chain.key(latent_key, name, reduction): name for name in chain.names}
    return {keys[key]: value for key, value in store.get(list(keys)).items()}
