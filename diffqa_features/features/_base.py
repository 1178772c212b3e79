"""Base classes of the transformers over media, with and without a backbone."""

import os
from dataclasses import replace
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.engine import extract
from diffqa_features._engine.kinds import STATISTICS
from diffqa_features._engine.request import FrameSpec, Request
from diffqa_features._media.rows import as_rows
from diffqa_features._media.video.video import VIDEO_BACKENDS
from diffqa_features._media.views import VIEWS
from diffqa_features._store.store import FeatureStore, as_store, wants_half
from diffqa_features._utils.checks import InOrder
from diffqa_features.features._parameters import BackboneParameters, MediaParameters

FRAME_STATISTICS = ("mean", "std", "max", "min")


class MediaTransformer(MediaParameters, TransformerMixin, BaseEstimator):
    """Base of the transformers that read media and learn nothing.

    It has no constructor: a subclass lists its own parameters, as scikit-learn
    requires, and ``_check_parameters`` checks those that depend on each other and
    returns the frozen model's description, if there is one.
    """

    _parameter_constraints: dict = {
        "memory": [str, os.PathLike, FeatureStore, None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float32", "float16", "bfloat16"}), None],
        "n_jobs": [Integral, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
    }

    def fit(self, X=None, y=None):
        """Check the parameters and remember which model there is; open no media.

        Parameters
        ----------
        X : list, array or DataFrame of N media rows, default=None
            If given, only checked to be a container of rows.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The estimator itself.
        """
        self._validate_params()
        as_store(self.memory)
        model = self._check_parameters()
        if X is not None:
            as_rows(X)
        if model is not None:
            self.frozen_identity_ = model.identity
        return self

    def _check_frozen(self, model):
        """Refuse another model than that of `fit`."""
        expected = getattr(self, "frozen_identity_", None)
        if expected is not None and model.identity != expected:
            raise ValueError(
                f"The model that this {type(self).__name__} now finds is not the one "
                "that it was fitted with: its weights or configuration have the "
                f"fingerprint {model.identity[:12]}, expected {expected[:12]}. Name a "
                "folder or hub id with the original model, install the release that it "
                "was fitted with, or fit again, with all that was fitted on its "
                "columns."
            )

    def _precision(self):
        """Name of the dtype that `dtype` stands for on this machine."""
        # torch loads here, at first use.
        from diffqa_features._utils.devices import parse_device, pick_dtype

        dtype = pick_dtype(self.dtype, parse_device(self.device))
        return str(dtype).removeprefix("torch.")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class BackboneTransformer(BackboneParameters, MediaTransformer):
    """Base of the transformers that use a frozen backbone.

    It has no constructor: a subclass lists its own parameters, as scikit-learn
    requires.
    """

    _parameter_constraints: dict = {
        **MediaTransformer._parameter_constraints,
        "backbone": [str, os.PathLike],
        "vae": [str, os.PathLike, None],
        "timesteps": [Interval(Integral, 0, None, closed="left"), InOrder()],
        "blocks": [str, InOrder()],
        "prompts": [str, InOrder()],
        "image_size": [Interval(Integral, 8, None, closed="left"), None],
        "view": [StrOptions(set(VIEWS))],
        "n_tiles": [Interval(Integral, 1, None, closed="left"), None],
        "frame_rate": [Interval(Real, 0, None, closed="neither")],
        "max_frames": [Interval(Integral, 1, None, closed="left"), None],
        "frames": [StrOptions({"spread", "bursts"})],
        "burst_length": [Interval(Integral, 1, None, closed="left")],
        "reader": [StrOptions(set(VIDEO_BACKENDS))],
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

    def _check_parameters(self):
        """Check parameters against each other and the backbone; load no weights."""
        info = describe_backbone(self._backbone_name())
        self._timesteps()
        self._prompts()
        self._checked_image_size(info)
        return info

    def _frozen_identity(self):
        info = describe_backbone(self._backbone_name())
        self._check_frozen(info)
        return info.identity

    def _request(self):
        info = self._check_parameters()
        self._check_frozen(info)
        first, *others = self._views()
        frames = FrameSpec(
            identity=info.identity,
            view=first,
            image_size=self._checked_image_size(info),
            multiple=info.multiple,
            dtype=self._precision(),
            frame_rate=float(self.frame_rate),
            max_frames=None if self.max_frames is None else int(self.max_frames),
            burst_length=self._burst_length(),
            reader=self.reader,
            half=wants_half(self.memory),
            n_tiles=None if self.n_tiles is None else int(self.n_tiles),
        )
        recipe, layout = self._recipe_and_layout(info)
        return Request(
            backbone=self._backbone_name(),
            views=(frames, *(replace(frames, view=view) for view in others)),
            recipe=recipe,
            timesteps=self._timesteps(),
            prompts=self._prompts(),
            frame_statistics=self._frame_statistics(),
            seed=int(self.random_state),
            device=None if self.device is None else str(self.device),
            batch_size=self.batch_size,
            layout=layout,
        )

    def _recorded(self, info, asked):
        """What a pass records: all blocks and statistics if stored, else the request.

        The pass is the expensive part. Stored whole, it serves every later choice of
        blocks and pooling, so a grid search runs each pass once.
        """
        if self.memory is None:
            return asked
        return replace(
            asked, blocks=info.blocks, stages=info.stages, statistics=STATISTICS
        )

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

    def _views(self):
        return (self.view,)

    def _frame_statistics(self):
        return ("mean",)

    def _selected(self, info):
        """Selected cross-attention blocks and stages, in forward order."""
        stage_of = {b.name: b.name.split(".")[0] for b in info.blocks}
        names = [*stage_of, *(stage.name for stage in info.stages)]
        patterns = self.blocks if isinstance(self.blocks, str) else list(self.blocks)
        chosen = set(select_blocks(patterns, names))
        blocks = tuple(block for block in info.blocks if block.name in chosen)
        inside = {stage_of[block.name] for block in blocks}
        stages = (s for s in info.stages if s.name in chosen or s.name in inside)
        return blocks, tuple(stages)
