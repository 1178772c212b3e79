"""A learned method in one file: a small network on the latents of pictures."""

from numbers import Integral

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import nn

from diffqa_features.learned._base import BackboneModel
from diffqa_features.learned._regression import LearnedRegressor
from diffqa_features.learned._training import mean_of


class LatentRegressor(BackboneModel, LearnedRegressor):
    """Quality from the frozen autoencoder's latents, by two convolutions."""

    normalization = "vae"  # of pixels; or a parameter, where there is a choice
    _ARCHITECTURE = ("width", "image_size", "view")
    _parameter_constraints: dict = {
        **BackboneModel._parameter_constraints,
        "width": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self, backbone="tiny", *, width=16, image_size=None, view="crop", max_epochs=10,
        batch_size=16, learning_rate=1e-2, validation_fraction=None, patience=3,
        warm_start=False, checkpoint_dir=None, random_state=0, memory=None, device=None,
        dtype=None, on_error="raise", verbose=0,
    ):  # fmt: skip
        self.backbone, self.width = backbone, width
        self.image_size, self.view, self.max_epochs = image_size, view, max_epochs
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.validation_fraction, self.patience = validation_fraction, patience
        self.warm_start, self.checkpoint_dir = warm_start, checkpoint_dir
        self.random_state, self.memory, self.device = random_state, memory, device
        self.dtype, self.on_error, self.verbose = dtype, on_error, verbose

    def fit(self, X, y, groups=None, sample_weight=None):
        return self._fit(X, y, groups, sample_weight)

    def predict(self, X):
        return self._predict(X)

    # -- what the skeleton asks for ------------------------------------------------

    def _open_data(self, job):
        return self._latents(job, stills_only=True)  # (N, C, h, w), encoded once

    def _build_network(self, job):
        channels, width = job.info.latent_channels, self.width
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            network = nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1),
            )  # fmt: skip
        if job.warm:
            self._load_weights(network)
        return network.to(self._where())

    def _loss(self, job):
        device, (slope, intercept) = self._where(), job.line
        wanted = torch.from_numpy((job.y - intercept) / slope).float().to(device)

        def step(rows, generators):
            scores = job.network(torch.from_numpy(job.data[rows]).to(device))[:, 0]
            errors = (scores - wanted[rows]).square()
            return mean_of(errors, job.weights_of(rows, device)), scores

        return step

    @torch.no_grad()
    def _scores(self, job, rows):
        latents = torch.from_numpy(np.asarray(job.data[rows])).to(self._where())
        return job.network(latents)[:, 0].double().cpu().numpy()

    def _facts(self, job):
        return job.data
