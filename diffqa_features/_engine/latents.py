"""Rows in, latents of their frames out: read ahead, encoded once, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from diffqa_features._engine.parallel import keep, read_ahead
from diffqa_features._media.rows import Row, open_media, pixel_key
from diffqa_features._media.views import view_frames
from diffqa_features._store.store import FeatureStore
from diffqa_features._utils.hashing import make_key

_AHEAD = 16  # rows that are read while others are encoded


@dataclass(frozen=True)
class Framing:
    """What decides the latents of a row, beside the weights of the VAE."""

    identity: str
    view: str
    image_size: int
    multiple: int
    normalization: str = "vae"
    stills_only: bool = False
    frame_rate: float = 1.0
    max_frames: int | None = None
    n_frames: int | None = None
    """So many over the whole video instead, first and last included."""
    reader: str = "auto"

    def key(self, frame_key: str) -> str:
        return make_key(
            "latents 1", self.identity, self.view, self.image_size,
            self.normalization, frame_key,
        )  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """One row: the keys of its T frames and their latents (T, C, h, w), float32."""

    keys: tuple[str, ...]
    latents: np.ndarray
    frames: np.ndarray
    """Number of each frame in the medium, int (T,)."""
    times: np.ndarray | None
    """When each is shown, seconds (T,); None where there is no clock."""


def encode_rows(
    rows: Sequence[Row],
    framing: Framing,
    passes,
    *,
    store: FeatureStore | None = None,
    verbose: int = 0,
    see: Callable[[list[np.ndarray]], None] | None = None,
) -> list[Encoded]:
    """Encode every frame of every row once; `passes` is a :class:`Passes` in float32.

    Equal frames share one encoding. A bad row is an error that names it. `see` is given
    the views (uint8) of each row's frames, row by row; then all rows are decoded, also
    those whose latents are kept.
    """
    known: dict[str, np.ndarray] = {}
    encoded = []

    def read(row):
        # The store as it stands then.
        return _open(row, framing, store, see is not None)

    with tqdm(total=len(rows), unit="row", desc="encode", disable=not verbose) as bar:
        for _, future in read_ahead(rows, read, _AHEAD):
            keys, views, found, places = future.result()
            if see is not None:
                see([views[key] for key in keys])
            known.update(found)
            new = [key for key in views if key not in known]
            if new:
                latents = passes.latents(
                    [views[key] for key in new], framing.normalization
                )
                known.update(zip(new, latents, strict=True))
                store = keep(store, {framing.key(key): known[key] for key in new})
            latents = np.stack([known[key] for key in keys])
            encoded.append(Encoded(keys, latents, *places))
            bar.update(1)
    return encoded


def _open(row, framing, store, view_all):
    """Keys and places of a row's frames, views of those to encode, kept latents."""
    media = open_media(row, framing.reader)
    if framing.stills_only and not media.is_still:
        raise ValueError(
            f"Row{str(row)[3:]}: this is a clip of several frames, and the estimator "
            "takes pictures. Pass single frames."
        )
    still_file = media.is_still and not media.is_array
    if still_file and store is not None and not view_all:
        # What is stored is not decoded again.
        found = store.get([framing.key(media.key)])
        if found:
            places = np.zeros(1, int), None
            return (media.key,), {}, {media.key: next(iter(found.values()))}, places
    keys, views, found = [], {}, {}
    chosen, clock = _choose(media, framing), media.times()
    for pixels in media.read(chosen):
        key = media.key if media.is_still else pixel_key(pixels)
        keys.append(key)
        if key in views or key in found:
            continue
        stored = {} if store is None else store.get([framing.key(key)])
        if stored:
            found[key] = next(iter(stored.values()))
        if not stored or view_all:
            views[key] = view_frames(
                pixels[None], framing.view, framing.image_size, framing.multiple
            )[0]
    places = chosen, None if clock is None else clock[chosen]
    return tuple(keys), views, found, places


def _choose(media, framing):
    if framing.n_frames is None:
        return media.choose(framing.frame_rate, framing.max_frames)
    clock = media.times()
    # What has no clock is chosen whole.
    count = len(media.choose() if clock is None else clock)
    return np.unique(np.linspace(0, count - 1, framing.n_frames).astype(int))
