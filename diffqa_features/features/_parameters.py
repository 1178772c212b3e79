"""Parameter checks shared by frozen transformers and learned estimators."""

import os
import warnings
from pathlib import Path

from diffqa_features._backbone.hub import with_vae
from diffqa_features._media.tables import is_unicode
from diffqa_features._utils.files import expand_user

_PAGES = Path(__file__).parents[2] / "docs/_build/html/generated/api"
"""Where ``make docs`` puts the API pages."""


class MediaParameters:
    """Mixin: keyword parameters, failed rows, and the tags of estimators over media."""

    # The question mark in a notebook's diagram leads there, where pages were built.
    _doc_link_module = "diffqa_features"

    @property
    def _doc_link_template(self):
        page = _PAGES / f"diffqa_features.{type(self).__name__}.html"
        return page.as_uri() if page.is_file() else ""

    def _choice(self, name, allowed):
        """A parameter that is one or several of a fixed set of strings."""
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

    def _warn_of_failed(self, rows, effect="are NaN"):
        if self.failed_:
            shown = "; ".join(reason for _, reason in self.failed_[:3])
            more = len(self.failed_) - 3
            warnings.warn(
                f"{len(self.failed_)} of {len(rows)} rows could not be read and "
                f"{effect}; `failed_` lists them. {shown}"
                + (f"; and {more} more." if more > 0 else ""),
                RuntimeWarning,
                stacklevel=4,
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        return tags


class BackboneParameters(MediaParameters):
    """Mixin: parameters of estimators that use a frozen backbone."""

    def _backbone_name(self):
        name = os.fspath(self.backbone)
        name = str(Path(expand_user(name))) if name.startswith("~") else name
        return with_vae(name, getattr(self, "vae", None))  # not all let one choose

    def _prompts(self):
        values = [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)
        if not values or not all(isinstance(text, str) for text in values):
            raise self._complaint("prompts", "a str or a sequence of str, at least one")
        if not all(map(is_unicode, values)):
            raise self._complaint("prompts", "Unicode text")
        return tuple(map(str, values))

    def _burst_length(self):
        """Number of adjacent frames at every sampled moment."""
        return int(self.burst_length) if self.frames == "bursts" else 1

    def _checked_image_size(self, info):
        size = info.image_size if self.image_size is None else int(self.image_size)
        if size % info.multiple:
            below = size // info.multiple * info.multiple
            near = " or ".join(str(s) for s in (below, below + info.multiple) if s)
            raise self._complaint(
                "image_size", f"a multiple of {info.multiple} for {info.name} ({near})"
            )
        return size
