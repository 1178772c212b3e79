"""What transformers over a backbone share: parameters, checks, the way to passes."""

import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.engine import extract
from diffqa_features._engine.records import Recipe
from diffqa_features._engine.request import Request
from diffqa_features._media.rows import as_rows
from diffqa_features._media.video.video import READERS
from diffqa_features._media.views import VIEWS
from diffqa_features._store.store import as_store
from diffqa_features.features._estimator import MediaTransformer

FRAME_STATISTICS = ("mean", "std", "max", "min")


class BackboneTransformer(MediaTransformer):
    """Base of the transformers that read a frozen backbone.

    It has no constructor: a subclass lists its parameters, as scikit-learn wants them.
    """

    _parameter_constraints: dict = {
        **MediaTransformer._parameter_constraints,
        "backbone": [str, os.PathLike],
        "timesteps": [Interval(Integral, 0, None, closed="left"), "array-like"],
        "blocks": [str, "array-like"],
        "prompts": [str, "array-like"],
        "image_size": [Interval(Integral, 8, None, closed="left"), None],
        "view": [StrOptions(set(VIEWS))],
        "frame_rate": [Interval(Real, 0, None, closed="neither")],
        "max_frames": [Interval(Integral, 1, None, closed="left"), None],
        "reader": [StrOptions(set(READERS))],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def _extract(self, X):
        """Rows to matrix: (N, D) in float32; fills ``failed_``."""
        self._validate_params()
        rows = as_rows(X)
        request = self._request()
        matrix, self.failed_ = extract(
            rows,
            request,
            store=as_store(self.memory),
            n_jobs=self.n_jobs,
            on_error=self.on_error,
            verbose=self.verbose,
        )
        self._warn_of_failed(rows)
        return matrix

    # -- parameters to plan ----------------------------------------------------------

    def _plan(self):
        """Check what spans several parameters or the backbone; read no weights."""
        info = describe_backbone(self._backbone_name())
        self._timesteps()
        self._prompts()
        self._checked_image_size(info)
        return info

    def _request(self):
        info = self._plan()
        # torch loads here, at first use.
        from diffqa_features._utils.devices import pick_device, pick_dtype

        recipe, layout = self._recipe_and_layout(info)
        return Request(
            backbone=self._backbone_name(),
            identity=info.identity,
            recipe=recipe,
            timesteps=self._timesteps(),
            prompts=self._prompts(),
            view=self.view,
            image_size=self._checked_image_size(info),
            multiple=info.multiple,
            frame_rate=float(self.frame_rate),
            max_frames=self.max_frames,
            reader=self.reader,
            frame_statistics=self._frame_statistics(),
            seed=int(self.random_state),
            device=None if self.device is None else str(self.device),
            dtype=str(pick_dtype(self.dtype, pick_device(self.device))).removeprefix(
                "torch."
            ),
            batch_size=self.batch_size,
            layout=layout,
        )

    def _recipe(self, info, kinds, blocks, stages, statistics, all_statistics, **more):
        """What passes record: with a store all blocks and statistics, else the asked.

        A pass is what costs. Kept whole, it serves every later choice of blocks and
        pooling, so that a grid search takes each pass once.
        """
        keep_all = self.memory is not None
        return Recipe(
            kinds=tuple(dict.fromkeys(kinds)),
            blocks=info.blocks if keep_all else tuple(blocks),
            stages=info.stages if keep_all else tuple(stages),
            statistics=all_statistics if keep_all else tuple(statistics),
            latent_channels=info.latent_channels,
            **more,
        )

    def _backbone_name(self):
        name = os.fspath(self.backbone)
        return str(Path(name).expanduser()) if name.startswith("~") else name

    def _timesteps(self):
        values = np.atleast_1d(np.asarray(self.timesteps, dtype=object)).tolist()
        good = all(
            isinstance(t, Integral) and not isinstance(t, bool) and 0 <= t <= 999
            for t in values
        )
        if not values or not good or len(set(values)) < len(values):
            raise self._complaint(
                "timesteps", "distinct ints in the range [0, 999], at least one"
            )
        return tuple(int(t) for t in values)

    def _prompts(self):
        values = [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)
        if not values or not all(isinstance(text, str) for text in values):
            raise self._complaint("prompts", "a str or a sequence of str, at least one")
        return tuple(map(str, values))

    def _frame_statistics(self):
        return ("mean",)

    def _checked_image_size(self, info):
        size = info.image_size if self.image_size is None else int(self.image_size)
        if size % info.multiple:
            below = size // info.multiple * info.multiple
            near = " or ".join(str(s) for s in (below, below + info.multiple) if s)
            raise self._complaint(
                "image_size", f"a multiple of {info.multiple} for {info.name} ({near})"
            )
        return size

    def _selected(self, info):
        """Chosen cross-attention blocks and stages, in the order data meets them."""
        stage_of = {b.name: b.name.split(".")[0] for b in info.blocks}
        names = [*stage_of, *(stage.name for stage in info.stages)]
        patterns = self.blocks if isinstance(self.blocks, str) else list(self.blocks)
        chosen = set(select_blocks(patterns, names))
        blocks = [block for block in info.blocks if block.name in chosen]
        inside = {stage_of[block.name] for block in blocks}
        stages = [s for s in info.stages if s.name in chosen or s.name in inside]
        return blocks, stages
