"""What fitting a student takes: its plan, its targets, its network, its loss."""

import os
import weakref
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from diffqa_features._media.views import to_pixels
from diffqa_features.learned._estimator import TrainedRegressor
from diffqa_features.learned.student.data import (
    draw_crops,
    draw_flips,
    flip,
    is_fitted,
    read_course,
)
from diffqa_features.metrics import srcc_score

PAPERS_MAP = (8, 64, 64)
_ON_CPU, _ON_GPU = 16, 64  # pictures per pass of a prediction

# Student -> what its network was made of, and the network. On the side, since pickles
# hold arrays; weak, since nobody says when a student is done.
_ready = weakref.WeakKeyDictionary()


class Distilling(TrainedRegressor):
    """The working part of :class:`DistilledStudentRegressor`."""

    _DESIGN = ("network", "image_size", "view", "normalization", "head")
    _FITTED = (
        "slope_", "intercept_", "map_scale_", "map_shape_", "head_", "image_size_",
        "architecture_", "history_",
    )  # fmt: skip

    _parameter_constraints: dict = {
        **TrainedRegressor._parameter_constraints,
        "teacher": [HasMethods("predict"), None],
        "network": [str, os.PathLike],
        "weights": [str, os.PathLike, None],
        "image_size": [Interval(Integral, 64, None, closed="left"), None],
        "normalization": [StrOptions({"unit", "imagenet"})],
        "head": [StrOptions({"auto", "map", "pooled"})],
        "target": [StrOptions({"teacher", "truth", "both"})],
        "map_weight": [Interval(Real, 0, None, closed="left")],
        "flip": ["boolean"],
        "crop_size": [Interval(Integral, 32, None, closed="left"), None],
        "milestones": ["array-like"],
        "decay": [Interval(Real, 0, 1, closed="right")],
        "gradient_clip": [Interval(Real, 0, None, closed="neither"), None],
    }

    # -- parameters to plan ----------------------------------------------------------

    def _plan(self):
        """The architecture and the size of pictures; checks what spans parameters."""
        from diffqa_features.learned.student.efficientnet import find_config

        epochs = list(self.milestones)
        if not all(isinstance(e, Integral) and e >= 1 for e in epochs):
            raise ValueError(
                f"The 'milestones' parameter of {type(self).__name__} must be epochs, "
                f"ints from 1 on. Got {self.milestones!r} instead."
            )
        if str(self.network) == "tiny":
            if self.weights is not None:
                raise ValueError(
                    "The 'weights' parameter must be None for network='tiny', which "
                    "starts from random weights, or goes on from those of its last "
                    f"fit with warm_start=True. Got {self.weights!r} instead."
                )
            architecture, size = {"kind": "tiny"}, 192
        else:
            config, size = find_config(self.network)
            architecture = {
                "kind": "efficientnet", "config": config, "symmetric": False
            }  # fmt: skip
        size = size if self.image_size is None else int(self.image_size)
        if self.crop_size is not None and self.crop_size > size:
            raise ValueError(
                f"The 'crop_size' parameter of {type(self).__name__} must be at most "
                f"the image_size, {size}. Got {self.crop_size!r} instead."
            )
        return architecture, size

    def _first_weights(self, architecture):
        """Where the first weights of the body come from, and these; or None twice."""
        from diffqa_features.learned.student.efficientnet import VARIANTS, read_weights

        source = self.weights
        if source is None and architecture["kind"] == "efficientnet":
            source = None if str(self.network) in VARIANTS else self.network
        return source, None if source is None else read_weights(source)

    def _start(self, architecture, head, map_shape, source=None, weights=None):
        """The network before training."""
        from diffqa_features.learned.student.efficientnet import load_into

        network = self._build(architecture, head, map_shape)
        if weights is not None:
            load_into(network.body, weights, str(source))
        return network

    def _build(self, architecture, head, map_shape):
        import torch

        from diffqa_features.learned.student.network import StudentNetwork

        imagenet = self.normalization == "imagenet"
        seed = int(self.random_state)
        with torch.inference_mode(False):  # a caller may be in it
            return StudentNetwork(architecture, head, map_shape, imagenet, seed)

    # -- what is learned from ----------------------------------------------------------

    def _fitted_teacher(self, X, y):
        """The teacher, fitted on X and y if it is not fitted yet."""
        if self.teacher is None:
            return None
        if isinstance(self.teacher, type):
            raise ValueError(
                f"The 'teacher' parameter of {type(self).__name__} must be an estimator"
                f" and not its class: {self.teacher.__name__}(). Got the class."
            )
        if is_fitted(self.teacher):
            return self.teacher
        return clone(self.teacher).fit(X, y)

    def _check_asked(self, y, X_unlabelled):
        """Say what is missing for what the parameters ask."""
        if self.teacher is None:
            missing, why = y is None, "teacher=None"
            if X_unlabelled is not None:
                raise ValueError(
                    "X_unlabelled needs a teacher to score it. Got teacher=None."
                )
        elif self.target != "teacher":
            missing, why = y is None, f"target={self.target!r}"
        else:
            missing = y is None and not is_fitted(self.teacher)
            why = "a teacher that is not fitted"
        if missing:
            raise ValueError(f"fit needs y with {why}. Got None.")

    # -- training ------------------------------------------------------------------

    def _fit(self, parts, y, groups):
        """Read, ask, train, and only then change what is fitted."""
        again = self.warm_start and hasattr(self, "weights_")
        if again:
            self._check_fitted()
        architecture, size = self._plan()
        labelled = len(parts[0][1])
        known = np.zeros(labelled) if y is None else y
        train, held = self._split(known, groups)
        first = (None, None) if again else self._first_weights(architecture)
        teacher = self._fitted_teacher(parts[0][0], y)
        maps = self.map_weight > 0 and hasattr(teacher, "quality_maps")
        if self.crop_size is not None and (maps or self.head == "map"):
            raise ValueError(
                "crop_size needs a student without quality maps, which are those of "
                "whole pictures. Set crop_size=None, or map_weight=0 and head='pooled'."
            )
        course = read_course(self, parts, y, teacher, size)
        train = np.concatenate([train, np.arange(labelled, len(course.keys))])
        if len(train) < 2:
            raise ValueError("fit needs at least two pictures. Got 1 sample.")
        map_shape = None if course.maps is None else list(course.maps.shape[1:])
        if again:
            network, fitted = self._go_on(map_shape)
        else:
            head, map_shape = self._choose_head(architecture, map_shape)
            network = self._start(architecture, head, map_shape, *first)
            target = course.target[train]
            fitted = {
                "slope_": float(target.std()) or 1.0,
                "intercept_": float(target.mean()),
                "map_scale_": course.spread_of_maps(train),
                "map_shape_": map_shape,
                "head_": head,
                "image_size_": size,
                "architecture_": architecture,
                "history_": [],
            }
        line, past = (fitted["slope_"], fitted["intercept_"]), fitted["history_"]
        history = self._train(
            network, course, train, held, line, fitted["map_scale_"], len(past)
        )
        history = [{**new, "epoch": len(past) + new["epoch"]} for new in history]
        fitted["history_"] = [*past, *history]
        weights = {
            name: value.detach().cpu().numpy().copy()
            for name, value in network.state_dict().items()
        }
        if teacher is None:
            vars(self).pop("teacher_", None)
        else:
            self.teacher_ = teacher
        return self._take(weights, fitted, self._design())

    def _go_on(self, map_shape):
        """The network and the facts of the last fit."""
        if map_shape is not None and map_shape != self.map_shape_:
            raise ValueError(
                f"warm_start=True goes on with quality maps of shape {self.map_shape_},"
                f" but the teacher's have {map_shape}. Set warm_start=False, or "
                "map_weight=0."
            )
        network = self._build(self.architecture_, self.head_, self.map_shape_)
        self._give_weights(network)
        return network, {name: getattr(self, name) for name in self._FITTED}

    def _choose_head(self, architecture, map_shape):
        head = self.head
        if head == "auto":
            tiny = architecture["kind"] == "tiny"
            head = "pooled" if tiny or map_shape is None else "map"
        if head == "map" and map_shape is None:
            map_shape = list(PAPERS_MAP)
        return head, map_shape

    def _train(self, network, course, train, held, line, map_scale, past):
        """Train on the rows `train`, validate on `held`; the history."""
        import torch

        from diffqa_features._utils.devices import pick_device

        device = pick_device(self.device)
        slope, intercept = line
        goals = np.stack([course.taught, course.truth], 1)[train]
        known = np.isfinite(goals)
        shares = known / known.sum(1, keepdims=True)
        goals = np.nan_to_num((goals - intercept) / slope)
        with torch.inference_mode(False):
            shares, goals = (
                torch.from_numpy(part).to(device, torch.float32)
                for part in (shares, goals)
            )  # (n, 2)

        def step(chosen, generators):
            network.train()
            rows = train[chosen]
            turned = draw_flips(generators, self.flip).to(device)
            views = draw_crops(course.pixels, rows, self.crop_size, generators)
            scores, maps = network(flip(to_pixels(views, "unit").to(device), turned))
            errors = (scores[:, None] - goals[chosen]).square()
            loss = (errors * shares[chosen]).sum(1).mean()
            if course.maps is not None:
                wanted = torch.from_numpy(np.array(course.maps[rows])).to(device)
                wanted = flip(wanted, turned) / map_scale
                loss = loss + self.map_weight * (maps - wanted).square().mean()
            return loss, intercept + slope * scores

        def validate():
            views = (course.pixels[row] for row in held)
            scores, _ = self._look(network.eval(), views, device)
            return srcc_score(course.target[held], intercept + slope * scores)

        facts = [course.keys, goals, train, held, line, map_scale, course.maps]
        facts += [self.flip, self.crop_size, float(self.map_weight)]
        return self._minimise(
            network.to(device),
            step,
            course.target[train],
            device,
            None if held is None else validate,
            facts,
            past,
        )

    # -- prediction ------------------------------------------------------------------

    def _looked_at(self, X, maps=False):
        """Scores (N,) in units of the target's spread, and maps, of pictures."""
        from diffqa_features._media.rows import as_rows
        from diffqa_features._utils.devices import pick_device
        from diffqa_features.learned._pictures import read_pictures

        self._check_fitted()
        device = pick_device(self.device)
        rows = as_rows(X)
        size = self.image_size_
        pictures = read_pictures(rows, self.view, size, self.verbose)
        views = (view for _, view in pictures)
        return self._look(self._trained(device), views, device, maps)

    def _look(self, network, views, device, maps=False):
        import torch

        from diffqa_features._utils.batching import in_halves
        from diffqa_features.learned._training import precision

        dtype = self._arithmetic(device)

        @torch.inference_mode()
        def run(chunk):
            with precision(device, dtype):
                scores, seen = network(to_pixels(np.stack(chunk), "unit").to(device))
            seen = seen.float().cpu().numpy() if maps else None
            return scores.double().cpu().numpy(), seen

        size = _ON_CPU if device.type == "cpu" else _ON_GPU
        parts, chunk = [], []
        for view in views:
            chunk.append(view)
            if len(chunk) == size:
                parts += in_halves(run, chunk, size)[0]
                chunk = []
        if chunk:
            parts += in_halves(run, chunk, size)[0]
        scores, seen = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(seen) if maps else None

    def _trained(self, device):
        """The fitted network, ready to predict; made once per fit and device."""
        import torch

        from diffqa_features.learned.student.network import fold_normalisation

        known = _ready.get(self)
        if known is None or known[0] is not self.weights_ or known[1] != device:
            network = self._build(self.architecture_, self.head_, self.map_shape_)
            self._give_weights(network)
            network = fold_normalisation(network.eval().requires_grad_(False))
            network = network.to(device, memory_format=torch.channels_last)
            known = _ready[self] = (self.weights_, device, network)
        return known[2]
