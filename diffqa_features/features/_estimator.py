"""What every transformer over media shares: the way to fit, to fail and to be asked."""

import os
import warnings
from numbers import Integral

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._media.rows import as_rows
from diffqa_features._store.store import FeatureStore


class MediaTransformer(TransformerMixin, BaseEstimator):
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

    def _warn_of_failed(self, rows):
        if self.failed_:
            shown = "; ".join(reason for _, reason in self.failed_[:3])
            more = len(self.failed_) - 3
            warnings.warn(
                f"{len(self.failed_)} of {len(rows)} rows could not be read and are "
                f"NaN; `failed_` lists them. {shown}"
                + (f"; and {more} more." if more > 0 else ""),
                RuntimeWarning,
                stacklevel=4,
            )

    def _choice(self, name, allowed):
        """A parameter that is one of a closed set of words, or several of them."""
        value = getattr(self, name)
        values = (value,) if isinstance(value, str) else tuple(value)
        known = all(isinstance(v, str) and v in allowed for v in values)
        if not values or not known or len(set(values)) < len(values):
            raise self._complaint(name, f"one or several of {set(allowed)}")
        return values

    def _complaint(self, name, allowed):
        return ValueError(
            f"The {name!r} parameter of {type(self).__name__} must be {allowed}. "
            f"Got {getattr(self, name)!r} instead."
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags
