"""How DiffVQA works: views, features, training and scores, without its constructor."""

from __future__ import annotations

import os
from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _is_fitted

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._media.rows import as_rows
from diffqa_features._store.store import as_store
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._estimator import LearnedRegressor
from diffqa_features.learned.control.controller import DiffusionController
from diffqa_features.metrics import srcc_score

VIEWS = ("resize", "crop")
CONTROL, NETWORK = "control.", "network."  # before the names of weights

_OF_STAGE_1 = (
    "image_size", "frame_rate", "max_frames", "reader", "random_state", "memory",
    "device", "dtype", "verbose",
)  # fmt: skip
_shared = BackboneTransformer._parameter_constraints
_positive = [Interval(Integral, 1, None, closed="left")]


class TwoViewRegressor(LearnedRegressor):
    """Base of the regressor that grades frames in one view and weighs them in another.

    `weights_` has the control module too, so that a fitted estimator is whole.
    """

    _DESIGN = (
        "branches",
        "control",
        "n_steps",
        "last_timestep",
        "image_size",
        "crop_size",
        "grid_size",
        "width",
        "mamba",
        "mamba_size",
        "patch_size",
        "mamba_width",
        "mamba_layers",
        "mamba_state",
    )
    _parameter_constraints: dict = {
        **LearnedRegressor._parameter_constraints,
        "controller": [str, os.PathLike, HasMethods("fit"), None],
        "control": ["boolean"],
        "branches": [str, "array-like"],
        "n_steps": [Interval(Integral, 1, 1000, closed="both")],
        "last_timestep": [Interval(Integral, 0, 999, closed="both")],
        "crop_size": _shared["image_size"],
        "n_crops": _positive,
        "frame_rate": _shared["frame_rate"],
        "max_frames": _shared["max_frames"],
        "reader": _shared["reader"],
        "grid_size": _positive,
        "width": _positive,
        "mamba": ["boolean"],
        "mamba_size": _positive,
        "patch_size": _positive,
        "mamba_width": _positive,
        "mamba_layers": _positive,
        "mamba_state": _positive,
        "loss": [StrOptions({"plcc+rank", "l1"})],
    }

    # -- parameters to plan ------------------------------------------------------------

    def _plan(self):
        info = describe_backbone(self._backbone_name())
        self._checked_image_size(info)
        self._checked_crop_size(info)
        self._views()
        if self.mamba_size % self.patch_size:
            raise self._complaint(
                "patch_size", f"a divisor of mamba_size={self.mamba_size}"
            )
        if self.n_steps > 1000 - self.last_timestep:
            raise self._complaint(
                "n_steps",
                f"at most {1000 - self.last_timestep} with "
                f"last_timestep={self.last_timestep}",
            )
        return info

    def _views(self):
        chosen = self._choice("branches", VIEWS)
        return tuple(view for view in VIEWS if view in chosen)

    def _design(self):
        return {**super()._design(), "branches": list(self._views())}

    def _column_names(self):
        self._validate_params()
        self._plan()
        parts = {"fusion": self.width}
        if self.mamba:
            parts["mamba"] = self.mamba_width
        names = [
            f"{view}__{part}__{channel:04d}"
            for view in self._views()
            for part, width in parts.items()
            for channel in range(width)
        ]
        return np.array(["quality", *names], object)

    def _checked_crop_size(self, info):
        if self.crop_size is None:
            return self._checked_image_size(info)
        if self.crop_size % info.multiple:
            raise self._complaint(
                "crop_size", f"a multiple of {info.multiple} for {info.name}"
            )
        return int(self.crop_size)

    def _where(self):
        """The device; that of a backbone, which stage 2 itself does not load."""
        from diffqa_features._utils.devices import pick_device

        return pick_device(self.device)

    def _chain(self, info, control):
        from diffqa_features.learned.control.features import (
            Chain,
            default_stages,
            fingerprint,
        )

        return Chain(
            stages=default_stages(info.stages),
            n_steps=int(self.n_steps),
            last_timestep=int(self.last_timestep),
            seed=int(self.random_state),
            dtype=self._arithmetic(self._where()),
            control=fingerprint(control) if control else "",
        )

    # -- stage 1 -----------------------------------------------------------------------

    def _control_weights(self, X, info):
        """Weights of the control module that `controller` asks for."""
        if not self.control:
            return {}
        given = self.controller
        if isinstance(given, FrozenEstimator):
            given = given.estimator
        if isinstance(given, (str, os.PathLike)):
            given = DiffusionController.from_pretrained(
                given, backbone=self.backbone, device=self.device
            )
        if given is None:
            given = DiffusionController(
                self.backbone, **{name: getattr(self, name) for name in _OF_STAGE_1}
            )
        if not isinstance(given, DiffusionController):
            raise self._complaint(
                "controller", "None, a folder, or a DiffusionController"
            )
        if not _is_fitted(given, "weights_"):
            # A copy: parameters of an estimator stay as they came.
            given = clone(given).fit(X)
        if given.backbone_identity_ != info.identity:
            raise self._complaint(
                "controller", f"one of the backbone {info.name!r}, as it is now"
            )
        return given.weights_

    # -- features ----------------------------------------------------------------------

    def _clips(self, X, info, control):
        """Features and frames of both views, computed where the store has none."""
        from diffqa_features._engine.passes import Passes
        from diffqa_features.learned.diffvqa.view_features import Extractor, view_rows
        from diffqa_features.learned.diffvqa.views import Viewing

        chain = self._chain(info, control)
        viewing = Viewing(
            views=self._views(),
            image_size=self._checked_image_size(info),
            crop_size=self._checked_crop_size(info),
            n_crops=int(self.n_crops),
            seed=int(self.random_state),
            mamba_size=int(self.mamba_size) if self.mamba else None,
            frame_rate=float(self.frame_rate),
            max_frames=self.max_frames,
            reader=self.reader,
            facts=(info.identity, chain, int(self.grid_size)),
        )
        # Weights in float32; `dtype` is that of the arithmetic, by autocast.
        passes = Passes(self._backbone_name(), self.device, "float32", seed=0)
        extractor = Extractor(passes, control or None, chain, int(self.grid_size))
        return view_rows(
            as_rows(X),
            viewing,
            extractor,
            store=as_store(self.memory),
            verbose=self.verbose,
        )

    # -- stage 2 -----------------------------------------------------------------------

    def _network(self, info):
        import torch

        from diffqa_features.learned.control.features import default_stages
        from diffqa_features.learned.diffvqa.network import DiffVQANetwork, Sizes

        levels = [stage.channels for stage in default_stages(info.stages)]
        sizes = ("width", "mamba_size", "patch_size", "mamba_width", "mamba_layers",
                 "mamba_state")  # fmt: skip
        with torch.inference_mode(False):
            network = DiffVQANetwork(
                [*levels, info.latent_channels],
                self._views(),
                Sizes(
                    mamba=bool(self.mamba),
                    **{name: int(getattr(self, name)) for name in sizes},
                ),
                int(self.random_state),
            )
        return network.to(self._where())

    def _load_into(self, network, weights):
        import torch

        network.load_state_dict(
            {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
        )

    def _fit(self, X, y, groups):
        """Train, and only then change what is fitted."""
        from diffqa_features.learned.diffvqa.batches import standardise

        self._validate_params()
        y = self._check_target(as_rows(X), y)
        info = self._plan()
        train, held = self._split(y, groups)
        again = self.warm_start and hasattr(self, "weights_")
        if again:
            self._check_fitted()
            control = _part(self.weights_, CONTROL)
        else:
            control = self._control_weights(X, info)
        clips = self._clips(X, info, control)
        network = self._network(info)
        past = list(self.history_) if again else []
        if again:
            self._load_into(network, _part(self.weights_, NETWORK))
        else:
            standardise(network, [clips[i] for i in train])
        # A fixed scale of training, whatever the units of y.
        unit = float(y[train].std()) or 1.0
        wanted = (y - y[train].mean()) / unit
        history = self._train(network, clips, wanted, train, held, info, len(past))
        if again and not history:
            line = self.slope_, self.intercept_
        else:
            told = self._tell(network, [clips[i] for i in train])
            scores = np.array([each.score for each in told])
            line = _line(scores, y[train], unit if history else None)
        weights = {
            NETWORK + name: value.detach().cpu().numpy().copy()
            for name, value in network.state_dict().items()
        }
        weights.update({CONTROL + name: value for name, value in control.items()})
        history = [{**new, "epoch": len(past) + new["epoch"]} for new in history]
        fitted = {
            "slope_": line[0], "intercept_": line[1], "history_": past + history
        }  # fmt: skip
        return self._restore(weights, info.identity, fitted, self._design())

    def _train(self, network, clips, wanted, train, held, info, past):
        import torch

        from diffqa_features.learned.diffvqa.batches import LOSSES, collate

        device = self._where()
        target = torch.from_numpy(wanted[train]).to(device, torch.float32)
        compute_loss = LOSSES[self.loss]

        def step(chosen, generators):
            # One of its crops for each clip, another one every time.
            copies = [
                int(torch.randint(self.n_crops, (1,), generator=g)) for g in generators
            ]
            batch, mask = collate([clips[i] for i in train[chosen]], copies, device)
            quality, weights, _ = network(batch, mask)
            scores = (quality * weights).sum(1)
            return compute_loss(scores, target[chosen]), scores

        def validate():
            told = self._tell(network, [clips[i] for i in held])
            return srcc_score(wanted[held], [each.score for each in told])

        facts = [info.identity, self.loss, int(self.n_crops)]
        facts += [clips[i].features for i in train]
        if self.mamba:
            facts += [clips[i].frames for i in train]
        if held is not None:
            facts += [wanted[held], *(clips[i].features for i in held)]
        return self._minimise(
            network,
            step,
            wanted[train],
            device,
            None if held is None else validate,
            facts,
            past,
        )

    def _told(self, X):
        """What the fitted network says of rows, and the rows as it sees them."""
        info = self._check_fitted()
        self._plan()
        clips = self._clips(X, info, _part(self.weights_, CONTROL))
        network = self._network(info)
        self._load_into(network, _part(self.weights_, NETWORK))
        return self._tell(network, clips), clips

    def _tell(self, network, clips):
        """What the network says of each clip, in units of the training."""
        from diffqa_features.learned.diffvqa.batches import tell

        device = self._where()
        return tell(
            network,
            clips,
            device,
            self._arithmetic(device),
            int(self.n_crops) if "crop" in self._views() else 1,
            int(self.batch_size),
        )


def _part(weights, prefix):
    """The weights whose names begin so, under the names behind that."""
    return {
        k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
    }


def _line(scores, y, unit):
    """Slope and intercept that bring scores to y by least squares.

    What was trained (`unit`, the size of its target) keeps its direction: where least
    squares would turn it, nothing was learned.
    """
    centred = scores - scores.mean()
    agreement = float(centred @ (y - y.mean()))
    spread = float(centred @ centred)
    if not spread or (unit is not None and agreement <= 0):
        return unit or 1.0, float(y.mean() - (unit or 1.0) * scores.mean())
    slope = agreement / spread
    return slope, float(y.mean() - slope * scores.mean())
