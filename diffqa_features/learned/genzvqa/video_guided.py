"""What is inside GenzVQA's estimator: frames, motion, and where training begins."""

import os
from numbers import Integral

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from diffqa_features._media.rows import as_rows
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned.genziqa.prompt_guided import PromptGuidedRegressor
from diffqa_features.learned.genziqa.regressor import GenzIQARegressor
from diffqa_features.motion import MotionFeatures
from diffqa_features.motion._weights import find_weights

_shared = BackboneTransformer._parameter_constraints


class VideoGuidedRegressor(PromptGuidedRegressor):
    """Block scores of videos' frames, times factors of how the videos move."""

    _DESIGN = (*PromptGuidedRegressor._DESIGN, "modulator", "modulator_scale")
    _FITTED = (*PromptGuidedRegressor._FITTED, "motion_identity_")

    _parameter_constraints: dict = {
        **PromptGuidedRegressor._parameter_constraints,
        "frame_rate": _shared["frame_rate"],
        "max_frames": _shared["max_frames"],
        "n_frames": [Interval(Integral, 1, None, closed="left"), None],
        "reader": _shared["reader"],
        "modulator": ["boolean"],
        "modulator_scale": [StrOptions({"multiply", "divide"})],
        "motion_network": [str, os.PathLike],
        "init_from": [GenzIQARegressor, FrozenEstimator, str, os.PathLike, None],
    }

    @classmethod
    def from_released(
        cls, folder, backbone="sd21-base", motion_network="slowfast_r50", **parameters
    ):
        """Load the files of the authors' released training code.

        Parameters
        ----------
        folder : str or path
            Where, in it or below, `coop_Model_state_dict.pth`, `slowAttn.pth`,
            `fastAttn.pth`, `linearBlocks.pth` and `pytorch_lora_weights.bin` (or
            ``.safetensors``) lie. Only tensors are read.
        backbone : str or path, default="sd21-base"
            The model that they were trained on.
        motion_network : str or path, default="slowfast_r50"
            The network whose features they were trained on.
        **parameters : object
            Other parameters of the estimator; the defaults are the released settings.

        Returns
        -------
        GenzVQARegressor
            A fitted estimator that predicts in the units it was trained in: the line
            is the identity.

        Raises
        ------
        ValueError
            If the files hold something else or do not fit the backbone or the motion
            network.
        OSError
            If the files, the backbone or the motion network are not there.
        """
        from diffqa_features.learned.genziqa.released import read_released
        from diffqa_features.learned.genzvqa.released import read_modulator

        estimator = cls(backbone, motion_network=motion_network, **parameters)
        estimator._validate_params()
        info = estimator._plan()
        blocks = estimator._chosen(info)
        weights, sizes = read_released(folder, blocks)
        if estimator.modulator:
            widths = estimator._motion()._channels()
            weights |= read_modulator(folder, blocks, widths)
        estimator.set_params(**sizes)
        fitted = {
            "slope_": 1.0,
            "intercept_": 0.0,
            "history_": [],
            "motion_identity_": estimator._motion_identity(),
        }
        return estimator._restore(weights, info.identity, fitted, estimator._design())

    # -- parameters to plan ------------------------------------------------------------

    def _plan(self):
        info = super()._plan()
        self._check_frames()
        if self.modulator:
            self._motion_weights(download=False)
        return info

    def _check_frames(self):
        if self.n_frames is not None and self.max_frames is not None:
            raise self._complaint(
                "max_frames", "None where n_frames gives their number"
            )

    def _motion_weights(self, download=True):
        return find_weights(
            self.motion_network, download=download, parameter="motion_network"
        )

    def _motion_identity(self):
        return self._motion_weights().identity if self.modulator else None

    def _check_fitted(self):
        info = super()._check_fitted()
        self._check_frames()
        if self._motion_identity() != self.motion_identity_:
            raise ValueError(
                f"The motion network {os.fspath(self.motion_network)!r} is not the one "
                f"that this {type(self).__name__} was fitted with: its file has the "
                f"SHA-256 {self._motion_identity()[:12]}, expected "
                f"{self.motion_identity_[:12]}. Set 'motion_network' to the original "
                "file, or fit again."
            )
        return info

    # -- data ------------------------------------------------------------------------

    def _encoded(self, X, info):
        framing = self._framing(
            info,
            frame_rate=float(self.frame_rate),
            max_frames=self.max_frames,
            n_frames=self.n_frames,
            reader=self.reader,
        )
        return self._encode(as_rows(X), framing)

    def _videos(self, X, encoded):
        from diffqa_features.learned.genzvqa.network import Videos, mean_motion

        motion = mean_motion(self._motion().sequences(X)) if self.modulator else None
        return Videos(
            np.concatenate([row.latents for row in encoded]),
            np.array([len(row.latents) for row in encoded]),
            motion,
        )

    def _motion(self):
        return MotionFeatures(
            os.fspath(self.motion_network),
            memory=self.memory,
            device=self.device,
            # As for latents: they are computed once, and stay.
            dtype="float32",
            verbose=self.verbose,
            reader=self.reader,
        )

    # -- work ------------------------------------------------------------------------

    def _untrained(self, backbone):
        from diffqa_features.learned.genzvqa.network import GenzVQANetwork

        return GenzVQANetwork(
            backbone,
            self._chosen(backbone.info),
            self._prompts(),
            widths=self._motion()._channels() if self.modulator else None,
            scale=self.modulator_scale,
            **self._settings(),
        )

    def _read(self, network, backbone, videos, timesteps, queries=False):
        from diffqa_features.learned.genzvqa.network import read_videos

        return read_videos(
            network,
            backbone,
            videos,
            timesteps,
            self.random_state,
            self._arithmetic(backbone.device),
            queries=queries,
        )

    def _scores(self, network, backbone, videos, timesteps):
        return self._read(network, backbone, videos, timesteps).quality

    def _sampled(self, network, backbone, videos, generators):
        return network.sample_videos(backbone, videos, *self._range(), generators)

    def _network(self, backbone, trained):
        network = super()._network(backbone, trained)
        if not trained and self.init_from is not None:
            self._begin_with(network, self._source(backbone.info).weights_)
        return network

    def _look(self, X, queries=False):
        """Encoded rows, and what the fitted model reads of them."""
        info = self._check_fitted()
        encoded = self._encoded(X, info)
        videos = self._videos(X, encoded)
        backbone = self._load_backbone()
        network = self._network(backbone, trained=True)
        timesteps = self._ensemble()
        return encoded, self._read(network, backbone, videos, timesteps, queries)

    # -- where training begins ---------------------------------------------------------

    def _source(self, info):
        """The fitted GenzIQA of `init_from`, which has to be of the same design."""
        source = self.init_from
        if isinstance(source, (str, os.PathLike)):
            source = GenzIQARegressor.from_pretrained(source, backbone=self.backbone)
        if isinstance(source, FrozenEstimator):
            source = source.estimator
        if not isinstance(source, GenzIQARegressor):
            raise self._complaint(
                "init_from",
                "a GenzIQARegressor, also in a FrozenEstimator, a folder of its "
                "save_pretrained, or None",
            )
        try:
            check_is_fitted(source, "weights_")
        except NotFittedError as error:
            raise ValueError(
                "The GenzIQARegressor in 'init_from' is not fitted. Fit it first. A "
                "clone, as searches and cross-validation make, is not fitted either: "
                "there, wrap it in sklearn.frozen.FrozenEstimator, or pass the folder "
                "of its save_pretrained."
            ) from error
        if source.backbone_identity_ != info.identity:
            raise ValueError(
                "The GenzIQARegressor in 'init_from' was fitted on another backbone "
                f"than {info.name!r}: its fingerprint is "
                f"{source.backbone_identity_[:12]}, and not {info.identity[:12]}."
            )
        design = self._design()
        for name, value in source.design_.items():
            if value != design[name]:
                raise ValueError(
                    f"The {name!r} parameter of {type(self).__name__} is "
                    f"{design[name]!r}, but the GenzIQARegressor in 'init_from' was "
                    f"fitted with {value!r}. Set both to the same value."
                )
        return source

    @staticmethod
    def _begin_with(network, weights):
        import torch

        own = network.state_dict()
        own.update({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
        network.load_state_dict(own)

    def _column_names(self):
        blocks = self._chosen(self._plan())
        names = [f"{block.name}__score" for block in blocks]
        if self.modulator:
            names += [f"{block.name}__gamma" for block in blocks]
        for block in blocks:
            names += [f"{block.name}__query__{c:04d}" for c in range(block.channels)]
        return np.array(names, object)
