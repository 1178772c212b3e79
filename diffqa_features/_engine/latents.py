"""Rows in, latents of their frames out: read ahead, encoded once, cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diffqa_features._engine.parallel import put_or_disable, read_each
from diffqa_features._engine.request import FrameSpec
from diffqa_features._media.rows import Row, open_media, pixel_key
from diffqa_features._media.views import view_frames
from diffqa_features._store.store import FeatureStore


@dataclass(frozen=True)
class Encoded:
    """One row: the keys of its T frames and their latents (T, C, h, w), float32."""

    index: int
    """Of the row."""
    keys: tuple[str, ...]
    latents: np.ndarray
    frames: np.ndarray
    """Number of each frame in the medium, int (T,)."""
    times: np.ndarray | None
    """When each is shown, seconds (T,); None where there is no clock."""


def encode_rows(
    rows: Sequence[Row],
    spec: FrameSpec,
    passes,
    *,
    store: FeatureStore | None = None,
    verbose: int = 0,
    failed: list[tuple[int, str]] | None = None,
    see: Callable[[list[np.ndarray]], None] | None = None,
) -> list[Encoded]:
    """Encode every frame of every row once; `passes` is a :class:`Passes` in float32.

    Identical frames are encoded once. A bad row raises an error that names it or, with
    a list `failed`, becomes an entry (index, reason) there and is left out of the
    result. `see` gets the views (uint8) of each row's frames, row by row; all rows are
    then decoded, even those with cached latents.
    """
    known: dict[str, np.ndarray] = {}
    encoded = []

    def read(row):
        # The store as it stands then.
        return row.index, *_open(row, spec, store, see is not None)

    each = read_each(rows, read, "encode", verbose, failed=failed)
    for index, keys, views, found, places in each:
        if see is not None:
            see([views[key] for key in keys])
        known.update(found)
        new = [key for key in views if key not in known]
        if new:
            latents = passes.latents([views[key] for key in new], spec.normalization)
            latents = round_latents(latents, spec)
            known.update(zip(new, latents, strict=True))
            store = keep_latents(store, spec, {key: known[key] for key in new})
        latents = np.stack([known[key] for key in keys])
        encoded.append(Encoded(index, keys, latents, *places))
    return encoded


def round_latents(latents: Sequence[np.ndarray], spec: FrameSpec) -> list[np.ndarray]:
    """The latents as they would come back from the store, float32."""
    if not spec.half:
        return list(latents)
    return [latent.astype(np.float16).astype(np.float32) for latent in latents]


def keep_latents(
    store: FeatureStore | None, spec: FrameSpec, latents: dict[str, np.ndarray]
) -> FeatureStore | None:
    """Store latents by frame key, if the store takes them; see `put_or_disable`."""
    if store is None or store.latents == "drop":
        return store
    dtype = np.float16 if spec.half else np.float32
    return put_or_disable(
        store, {spec.key(key): value.astype(dtype) for key, value in latents.items()}
    )


def recall_latent(
    store: FeatureStore, spec: FrameSpec, frame_key: str
) -> np.ndarray | None:
    """The stored latent of a frame, float32; None if there is none."""
    key = spec.key(frame_key)
    latent = store.get([key]).get(key)
    return None if latent is None else latent.astype(np.float32, copy=False)


def _open(row, spec, store, view_all):
    """Keys and positions of a row's frames, views to encode, cached latents."""
    media = open_media(row, spec.reader)
    if spec.stills_only:
        media.check_still()
    still_file = media.is_still and not media.is_array
    if still_file and store is not None and not view_all:
        # What is stored is not decoded again.
        latent = recall_latent(store, spec, media.key)
        if latent is not None:
            places = np.zeros(1, int), None
            return (media.key,), {}, {media.key: latent}, places
    keys, views, found = [], {}, {}
    chosen, clock = spec.choose(media), media.times()
    for pixels in media.read(chosen):
        key = media.key if media.is_still else pixel_key(pixels)
        keys.append(key)
        if key in views or key in found:
            continue
        latent = None if store is None else recall_latent(store, spec, key)
        if latent is not None:
            found[key] = latent
        if latent is None or view_all:
            views[key] = view_frames(
                pixels[None], spec.view, spec.image_size, spec.multiple
            )[0]
    places = chosen, None if clock is None else clock[chosen]
    return tuple(keys), views, found, places
