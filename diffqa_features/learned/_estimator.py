"""Bases of the learned estimators: with scores or not, beside a backbone or not."""

import warnings
from decimal import Decimal
from numbers import Real

import numpy as np
from sklearn import get_config
from sklearn.base import RegressorMixin
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import check_consistent_length, column_or_1d

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.latents import encode_rows
from diffqa_features._engine.request import FrameSpec
from diffqa_features._store.store import as_store
from diffqa_features._utils.checks import check_groups
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._base import TrainedModel


class TrainedRegressor(RegressorMixin, TrainedModel):
    """Base of those that learn scores; it has no constructor."""

    _FITTED = ("slope_", "intercept_", "history_")

    @staticmethod
    def _check_target(rows, y):
        if y is None:
            raise ValueError("fit needs y: one score per row of X. Got None.")
        # Objects, since NumPy makes '1.0' of a number among str.
        values = y if hasattr(y, "dtype") else np.asarray(y, object)
        values = column_or_1d(np.asarray(values), warn=True)
        check_consistent_length(rows, values)
        for row, value in enumerate(values.tolist()):
            missing = type(value).__name__ in ("NoneType", "NAType", "NaTType")
            if missing or (isinstance(value, Real) and not np.isfinite(value)):
                raise ValueError(
                    f"Row {row}: y is {value}. Drop rows without a finite score."
                )
            if not isinstance(value, (Real, Decimal)):
                raise ValueError(
                    f"Row {row}: y is {value!r}, a {type(value).__name__}, and a score "
                    "is a number. Convert the column first, for example with "
                    "pandas.to_numeric, and drop rows without a score."
                )
        if len(values) < 2:
            raise ValueError("fit needs at least two rows. Got 1 sample.")
        return values.astype(np.float64)

    def _split(self, rows, groups):
        """Places of the rows that train, and of those held out (or None)."""
        if groups is not None:
            groups = check_groups(groups, rows)
        count = len(rows)
        if self.validation_fraction is None:
            return np.arange(count), None
        if groups is None and not get_config()["enable_metadata_routing"]:
            warnings.warn(
                "validation_fraction holds out rows at random, because fit got no "
                "groups: versions of one content may train and validate. Pass groups, "
                "or groups=range(len(X)) if no two rows share a content. "
                "cross_val_score and searches pass them on after "
                "sklearn.set_config(enable_metadata_routing=True).",
                UserWarning,
                stacklevel=4,
            )
        kind = ShuffleSplit if groups is None else GroupShuffleSplit
        splitter = kind(
            1, test_size=self.validation_fraction, random_state=self.random_state
        )
        if groups is not None and len(np.unique(groups)) < 2:
            raise ValueError(
                "validation_fraction holds out whole groups, and all rows are of one: "
                f"{groups.tolist()[0]!r}. Pass at least two groups, or set it to None."
            )
        try:
            train, held = next(splitter.split(np.empty(count), groups=groups))
        except ValueError:  # a side would be empty
            train, held = np.arange(count), np.arange(0)
        if len(train) < 2 or len(held) < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves {len(train)} "
                f"rows to train and {len(held)} to validate on; at least two of each "
                "are needed. Change it, or set it to None."
            )
        return np.sort(train), np.sort(held)

    @staticmethod
    def _warn_of_constant(y, train, held):
        """Say that there is nothing to learn, or nothing to choose an epoch by."""
        for rows, where, effect in (
            (train, "rows that train", "there is nothing to learn"),
            (held, "rows held out", "no epoch can be better than another"),
        ):
            if rows is not None and np.ptp(y[rows]) == 0:
                warnings.warn(
                    f"y is {y[rows[0]]:g} for all {len(rows)} {where}: {effect}. "
                    "Check that y is the column of scores.",
                    UserWarning,
                    stacklevel=4,
                )

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
        return FrameSpec(
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
