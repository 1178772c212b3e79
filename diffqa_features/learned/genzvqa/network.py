"""GenzVQA's trainable parts and forward pass: latents and motion in, quality out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffqa_features.learned._training import seed_of
from diffqa_features.learned.genziqa.network import GenzIQANetwork, read_ensemble
from diffqa_features.learned.genzvqa.modulator import TemporalModulator, normalise


@dataclass(frozen=True)
class Videos:
    """N videos: latents of their F frames in total, and the motion of each."""

    latents: np.ndarray
    """(F, C, h, w), the frames of one video after those of another."""
    counts: np.ndarray
    """Frames of each video, int (N,)."""
    motion: tuple[np.ndarray, np.ndarray] | None
    """Normalised slow and fast features, (N, D slow) and (N, D fast)."""

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: np.ndarray) -> Videos:
        ends = np.cumsum(self.counts)
        starts = ends - self.counts
        frames = [np.arange(starts[row], ends[row]) for row in rows]
        motion = self.motion
        return Videos(
            self.latents[np.concatenate(frames)],
            self.counts[rows],
            None if motion is None else tuple(part[rows] for part in motion),
        )


class GenzVQANetwork(GenzIQANetwork):
    """GenzIQA's trainable parts and, given widths of motion features, the modulator."""

    def __init__(
        self,
        backbone,
        blocks,
        prompts,
        *,
        widths: tuple[int, int] | None,
        scale: str,
        seed: int,
        **settings,
    ):
        super().__init__(backbone, blocks, prompts, seed=seed, **settings)
        self.modulator = None
        if widths is not None:
            # Of its own, so that what GenzIQA trains begins the same with and without.
            generator = torch.Generator().manual_seed(seed_of(seed, "modulator"))
            self.modulator = TemporalModulator(blocks, *widths, scale, generator)

    def sample_videos(
        self, backbone, videos: Videos, lowest, highest, generators
    ) -> torch.Tensor:
        """Quality (n,) with one random timestep and noise for all frames of a video."""
        reading = self.sample(
            backbone,
            torch.from_numpy(videos.latents),
            lowest,
            highest,
            generators,
            videos.counts,
            queries=self.modulator is not None,
        )
        scores = over_frames(reading.scores, videos.counts)
        if self.modulator is None:
            return scores.mean(1)
        queries = [over_frames(q.mean(1), videos.counts) for q in reading.queries]
        return (self.factors(queries, videos.motion) * scores).mean(1)

    def factors(self, queries: Sequence[torch.Tensor], motion) -> torch.Tensor:
        """gamma (n, P) of mean queries, per block (n, C)."""
        motion = (torch.from_numpy(part).to(queries[0]) for part in motion)
        return self.modulator(queries, *motion)


@dataclass(frozen=True)
class VideoReading:
    """Results at fixed timesteps for N videos with F frames in total, float32."""

    frame_scores: np.ndarray  # (F, P)
    scores: np.ndarray  # (N, P): means over frames
    factors: np.ndarray  # (N, P)
    queries: np.ndarray | None  # (N, sum of C)

    @property
    def quality(self) -> np.ndarray:
        """Q, float64 (N,)."""
        return (self.factors.astype(np.float64) * self.scores).mean(1)


@torch.no_grad()
def read_videos(
    network: GenzVQANetwork,
    backbone,
    videos: Videos,
    timesteps: Sequence[int],
    seed: int,
    dtype: torch.dtype,
    *,
    queries: bool = False,
) -> VideoReading:
    """Score all frames of all videos together, for any number of frames.

    Queries for the modulator are averaged over the timesteps, as the scores are.
    """
    frame_scores, seen = read_ensemble(
        network,
        backbone,
        videos.latents,
        timesteps,
        seed,
        dtype,
        queries=queries or network.modulator is not None,
    )
    scores = over_frames(torch.from_numpy(frame_scores), videos.counts).numpy()
    if seen is not None:
        seen = over_frames(torch.from_numpy(seen), videos.counts)
    factors = np.ones_like(scores)
    if network.modulator is not None:
        parts = seen.to(backbone.device).split([b.channels for b in network.blocks], 1)
        factors = network.factors(parts, videos.motion).cpu().numpy()
    return VideoReading(
        frame_scores, scores, factors, seen.numpy() if queries else None
    )


def over_frames(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Means (N, ...) of values (F, ...) over the frames of each video."""
    return torch.stack([part.mean(0) for part in values.split(list(map(int, counts)))])


def mean_motion(sequences) -> tuple[np.ndarray, np.ndarray]:
    """Slow and fast features of each video's clips -> their normalised means."""
    return tuple(
        torch.stack([normalise(torch.from_numpy(clips)) for clips in path]).numpy()
        for path in zip(*sequences, strict=True)
    )
