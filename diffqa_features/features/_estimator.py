"""What every transformer over media shares: the way to fit, to fail and to be asked."""

import os
from numbers import Integral

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._media.rows import as_rows
from diffqa_features._store.store import FeatureStore
from diffqa_features.features._parameters import MediaParameters


class MediaTransformer(MediaParameters, TransformerMixin, BaseEstimator):
    """Base of the transformers that take media and learn nothing.

    It has no constructor: a subclass lists its parameters, as scikit-learn wants them,
    and checks in ``_plan`` what spans several of them.
    """

    _parameter_constraints: dict = {
        "memory": [str, os.PathLike, FeatureStore, None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, None],
        "dtype": [StrOptions({"float32", "float16", "bfloat16"}), None],
        "n_jobs": [Integral, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
    }

    def fit(self, X=None, y=None):
        """Check the parameters; nothing is learned and no media is opened.

        Parameters
        ----------
        X : list, array or DataFrame of N media rows, default=None
            Checked to be a container of rows when given.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The estimator itself.
        """
        self._validate_params()
        self._plan()
        if X is not None:
            as_rows(X)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
