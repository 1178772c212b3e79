"""Pictures, `y` and a teacher in, the student's training data out."""

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from diffqa_features._store.store import as_store
from diffqa_features.learned._pictures import read_pictures, scratch
from diffqa_features.learned.student.teacher import TeacherCache


class DistillationData:
    """Training data of N pictures, the unlabelled ones last.

    Attributes
    ----------
    pixels : ndarray of shape (N, S, S, 3), dtype uint8
        On disk.
    keys : list of str
        Content keys of the pictures.
    taught, truth : ndarray of shape (N,)
        The teacher's scores and y; NaN if not used.
    maps : ndarray of shape (N, C, h, w), dtype float32, or None
        The teacher's maps, on disk.
    """

    def __init__(self, count: int, size: int):
        self.pixels = scratch((count, size, size, 3), np.uint8)
        self.keys: list[str] = []
        self.maps = None

    def read(self, rows, view, verbose, failed):
        """Read and append pictures; see :func:`read_pictures`."""
        size = self.pixels.shape[1]
        for key, pixels in read_pictures(rows, view, size, verbose, failed):
            self.pixels[len(self.keys)] = pixels
            self.keys.append(key)

    def set_targets(self, student, parts, y, teacher):
        """Run the teacher. `parts` are (X, readable rows): labelled, unlabelled."""
        count, labelled = len(self.keys), len(parts[0][1])
        self.taught, self.truth = np.full((2, count), np.nan)
        if teacher is None or student.target != "teacher":
            self.truth[:labelled] = y
        if teacher is None:
            return
        wanted = student.target != "truth" or count > labelled
        answers = TeacherCache(
            teacher,
            scores=wanted,
            maps=student.map_weight > 0 and hasattr(teacher, "quality_maps"),
            store=as_store(student.memory),
            verbose=student.verbose,
        ).ask(parts, self.keys)
        self.maps = answers.get("map")
        if wanted:
            self.taught[:] = answers["score"]
        if student.target == "truth":
            self.taught[:labelled] = np.nan

    @property
    def target(self):
        """One number per picture: the mean of the selected targets."""
        both = np.stack([self.taught, self.truth])
        return np.nansum(both, 0) / np.isfinite(both).sum(0)

    def spread_of_maps(self, rows, weight=None):
        """Standard deviation over these pictures and all positions; 1 without maps."""
        if self.maps is None:
            return 1.0
        # A picture at a time: the maps may be larger than memory.
        exact = (self.maps[row].astype(np.float64) for row in rows)
        moments = [[each.mean(), np.square(each).mean()] for each in exact]
        mean, square = np.average(moments, axis=0, weights=weight)
        return float(np.sqrt(max(square - mean**2, 0.0))) or 1.0


def is_fitted(teacher):
    """Whether it is fitted."""
    try:
        check_is_fitted(teacher)
    except NotFittedError:
        return False
    except TypeError:  # it has a predict and no fit
        return True
    return True
