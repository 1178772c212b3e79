"""Pictures, `y` and a teacher in, all that a student trains on out."""

from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from diffqa_features._store.store import as_store
from diffqa_features.learned._pictures import read_pictures, scratch
from diffqa_features.learned.student.teacher import Lessons


@dataclass
class Course:
    """All that training looks at; N pictures, the unlabelled ones behind the others."""

    pixels: np.ndarray  # (N, S, S, 3) uint8, on disk
    keys: list[str]
    taught: np.ndarray  # (N,) the teacher's scores; NaN where none is wanted
    truth: np.ndarray  # (N,) y; NaN where none is wanted
    maps: np.ndarray | None  # (N, C, h, w) float32, on disk

    @property
    def target(self):
        """One number per picture: the mean of the wanted ones."""
        both = np.stack([self.taught, self.truth])
        return np.nansum(both, 0) / np.isfinite(both).sum(0)

    def spread_of_maps(self, rows):
        """Standard deviation over these pictures and all places; 1 without maps."""
        if self.maps is None:
            return 1.0
        # A picture at a time: the maps may be larger than memory.
        exact = (self.maps[row].astype(np.float64) for row in rows)
        moments = [[each.mean(), np.square(each).mean()] for each in exact]
        mean, square = np.mean(moments, axis=0)
        return float(np.sqrt(max(square - mean**2, 0.0))) or 1.0


def read_course(student, parts, y, teacher, size):
    """Read pictures and ask the teacher. `parts` are (X, rows): labelled, others."""
    count = sum(len(rows) for _, rows in parts)
    labelled = len(parts[0][1])
    pixels, keys = scratch((count, size, size, 3), np.uint8), []
    for _, rows in parts:
        for key, view in read_pictures(rows, student.view, size, student.verbose):
            pixels[len(keys)] = view
            keys.append(key)
    taught, truth = np.full((2, count), np.nan)
    if teacher is None or student.target != "teacher":
        truth[:labelled] = y
    maps = None
    if teacher is not None:
        wanted = student.target != "truth" or count > labelled
        lessons = Lessons(
            teacher,
            scores=wanted,
            maps=student.map_weight > 0 and hasattr(teacher, "quality_maps"),
            store=as_store(student.memory),
            verbose=student.verbose,
        )
        said = lessons.take(parts, keys)
        maps = said.get("map")
        if wanted:
            taught[:] = said["score"]
        if student.target == "truth":
            taught[:labelled] = np.nan
    return Course(pixels, keys, taught, truth, maps)


def is_fitted(teacher):
    """Whether it can predict as it is."""
    try:
        check_is_fitted(teacher)
    except NotFittedError:
        return False
    except TypeError:  # it has a predict and no fit
        return True
    return True


def draw_flips(generators, wanted):
    """Which pictures of a batch are mirrored: a bool tensor."""
    import torch

    if not wanted:
        return torch.zeros(len(generators), dtype=torch.bool)
    return torch.cat([torch.rand(1, generator=g) < 0.5 for g in generators])


def draw_crops(pixels, rows, side, generators):
    """A random square of each picture, or all of it: uint8 (n, side, side, 3)."""
    import torch

    if side is None:
        return pixels[rows]
    free = pixels.shape[1] - side + 1
    corners = [torch.randint(free, (2,), generator=g).tolist() for g in generators]
    return np.stack(
        [
            pixels[row, top : top + side, left : left + side]
            for row, (top, left) in zip(rows, corners, strict=True)
        ]
    )


def flip(tensor, turned):
    """Mirror those pictures, or maps, left to right."""
    if not turned.any():
        return tensor
    return tensor.flip(-1).where(turned[:, None, None, None], tensor)
