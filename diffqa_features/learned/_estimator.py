"""Bases of the learned estimators: with scores or not, beside a backbone or not."""

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import check_consistent_length, column_or_1d

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.latents import Framing, encode_rows
from diffqa_features._store.store import as_store
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._base import TrainedModel


class TrainedRegressor(RegressorMixin, TrainedModel):
    """Base of those that learn scores; it has no constructor."""

    _FITTED = ("slope_", "intercept_", "history_")

    @staticmethod
    def _check_target(rows, y):
        if y is None:
            raise ValueError("fit needs y: one score per row of X. Got None.")
        y = column_or_1d(np.asarray(y), dtype=np.float64, warn=True)
        check_consistent_length(rows, y)
        bad = np.flatnonzero(~np.isfinite(y))
        if len(bad):
            raise ValueError(
                f"Row {bad[0]}: y is {y[bad[0]]}. Drop rows without a finite score."
            )
        if len(y) < 2:
            raise ValueError("fit needs at least two rows. Got 1 sample.")
        return y

    def _split(self, y, groups):
        """Places of the rows that train, and of those held out (or None)."""
        if groups is not None:
            check_consistent_length(y, groups)
        if self.validation_fraction is None:
            return np.arange(len(y)), None
        kind = ShuffleSplit if groups is None else GroupShuffleSplit
        splitter = kind(
            1, test_size=self.validation_fraction, random_state=self.random_state
        )
        train, held = (np.sort(part) for part in next(splitter.split(y, y, groups)))
        if len(train) < 2 or len(held) < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves {len(train)} "
                f"rows to train and {len(held)} to validate on; at least two of each "
                "are needed. Change it, or set it to None."
            )
        return train, held

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class LearnedModel(TrainedModel, BackboneTransformer):
    """Base of those that train beside a frozen backbone; it has no constructor."""

    _parameter_constraints: dict = {
        "backbone": BackboneTransformer._parameter_constraints["backbone"],
        **TrainedModel._parameter_constraints,
    }

    def _framing(self, info, **more):
        return Framing(
            identity=info.identity,
            view=self.view,
            image_size=self._checked_image_size(info),
            multiple=info.multiple,
            normalization=self.normalization,
            **more,
        )

    def _encode(self, rows, framing, see=None):
        """Latents of every frame of every row, each encoded once; `see` gets views."""
        from diffqa_features._engine.passes import Passes

        # The VAE in float32 everywhere: latents are computed once, and stay.
        passes = Passes(self._backbone_name(), self.device, "float32", seed=0)
        return encode_rows(
            rows,
            framing,
            passes,
            store=as_store(self.memory),
            verbose=self.verbose,
            see=see,
        )

    def _load_backbone(self):
        from diffqa_features._backbone.backbone import load_backbone

        # Weights in float32; `dtype` is that of the arithmetic, by autocast.
        return load_backbone(self._backbone_name(), self.device, "float32")

    def _run_training(self, network, step, target, backbone, validate, facts, past=0):
        """`_minimise` on the backbone's device; its identity is one of the facts."""
        facts = [backbone.info.identity, facts]
        return self._minimise(
            network, step, target, backbone.device, validate, facts, past
        )

    def _origin(self):
        info = self._check_fitted()
        names = ("name", "commit", "identity")
        return {"backbone": {name: getattr(info, name) for name in names}}

    def _check_fitted(self):
        super()._check_fitted()
        info = describe_backbone(self._backbone_name())
        self._check_backbone(info)
        return info

    def _check_backbone(self, info):
        if info.identity != self.backbone_identity_:
            raise ValueError(
                f"The backbone {info.name!r} is not the one that this "
                f"{type(self).__name__} was fitted on: its weights or configuration "
                f"have the fingerprint {info.identity[:12]}, expected "
                f"{self.backbone_identity_[:12]}. Set 'backbone' to a folder or hub id "
                "with the original model, or fit again."
            )

    def _restore(self, weights, identity, fitted, design):
        """Take all that `fit` leaves beside this backbone."""
        self.backbone_identity_ = identity
        return self._take(weights, fitted, design)

    def _restore_files(self, weights, config, design):
        identity = config["backbone"]["identity"]
        self._restore(weights, identity, config["fitted"], design)


class LearnedRegressor(TrainedRegressor, LearnedModel):
    """Base of those that learn scores beside a frozen backbone."""

    _parameter_constraints: dict = LearnedModel._parameter_constraints
