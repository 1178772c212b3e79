"""What judges pictures for a report: the shipped scorer, or a model of one's own."""

import numpy as np
import pandas as pd

from diffqa_features import load_scorer
from diffqa_features._commands._estimator import transform_files
from diffqa_features._engine.request import prompt_columns
from diffqa_features._utils.allocator import keep_memory
from diffqa_features.learned.scorer.videos import TIMING, frame_times


class ScorerJudge:
    """The shipped scorer, which says how sure it is, why, and where."""

    unit = "JOD"
    best = 10.0
    columns = ()

    def __init__(self, device=None, reader="auto"):
        keep_memory()
        self._scorer = load_scorer(device=device, reader=reader)

    def whole(self, rows):
        """Scores of whole files and reasons of bad ones: none, they come one by one."""
        return {}, {}

    def clip(self, media):
        """As `frame`, of a clip; the middle frames of its bursts; their scores.

        None for a picture.
        """
        if len(frame_times(media)) == 1:
            return None
        score, spread, faults, parts = self._scorer._score_media(media)
        names = self._scorer._kinds()
        verdict = pd.Series({"score": score, "std": spread, **dict(zip(names, faults))})
        return verdict, parts.frame, parts.score

    def frame(self, pixels):
        """Score, and where known std and faults, of a frame (H, W, 3)."""
        verdict = self._scorer.assess([pixels]).iloc[0].drop([*TIMING], errors="ignore")
        return verdict.rename({"jod": "score"})

    def loss_map(self, pixels):
        """Where the loss is, (h, w) in JOD, or None."""
        return self._scorer.quality_maps([pixels])[0, 0]


class ModelJudge:
    """A model of `diffqa fit`; its scores are on the scale of those it learned from."""

    unit = "score"
    best = None

    def __init__(self, model):
        self._model = model
        self.columns = prompt_columns(self._model[0].prompts)
        # Prompts that a table fills, and spreads over frames, say nothing of a frame.
        alone = tuple(np.atleast_1d(self._model[0].frame_pooling)) == ("mean",)
        self._frames_count = alone and not self.columns

    def whole(self, rows):
        """Scores and reasons by place in `rows`."""
        matrix, good, failed = transform_files(self._model[0], rows)
        scores = self._model[1:].predict(matrix) if len(matrix) else []
        reasons = (reason for _, reason in failed)
        return (
            dict(zip(np.flatnonzero(good).tolist(), map(float, scores))),
            dict(zip(np.flatnonzero(~good).tolist(), reasons)),
        )

    def clip(self, media):
        """None: `whole` knows it."""
        return None

    def frame(self, pixels):
        """The score of a frame (H, W, 3); none where it would mislead."""
        if not self._frames_count:
            return pd.Series(dtype=float)
        return pd.Series({"score": float(self._model.predict([pixels])[0])})

    def loss_map(self, pixels):
        """None: features are of the whole picture."""
        return None
