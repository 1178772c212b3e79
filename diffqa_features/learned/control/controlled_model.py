"""What `DiffusionController` does behind its methods: plans, training, features."""

from dataclasses import replace
from numbers import Integral

from sklearn.utils._param_validation import Interval

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.records import STATISTICS
from diffqa_features._store.store import as_store
from diffqa_features.features._base import FRAME_STATISTICS, BackboneTransformer
from diffqa_features.learned._estimator import LearnedModel

_KEPT = "mean std max"  # what the store has of each map, in the order of STATISTICS


class ControlledModel(LearnedModel):
    """Base of the estimator that trains a control module; it has no constructor."""

    # Pixels as the autoencoder was trained on, since it also decodes here.
    normalization = "vae"

    _parameter_constraints: dict = {
        **LearnedModel._parameter_constraints,
        "stages": [str, "array-like", None],
        "pooling": [str, "array-like"],
        "n_steps": [Interval(Integral, 1, 1000, closed="both")],
        "last_timestep": [Interval(Integral, 0, 999, closed="both")],
        "frame_rate": BackboneTransformer._parameter_constraints["frame_rate"],
        "max_frames": BackboneTransformer._parameter_constraints["max_frames"],
        "reader": BackboneTransformer._parameter_constraints["reader"],
        "frame_pooling": [str, "array-like"],
    }

    # -- parameters to plan ------------------------------------------------------------

    def _plan(self):
        info = describe_backbone(self._backbone_name())
        self._checked_image_size(info)
        self._stages(info)
        self._statistics()
        self._frame_statistics()
        if self.n_steps > 1000 - self.last_timestep:
            raise self._complaint(
                "n_steps",
                f"at most {1000 - self.last_timestep} with "
                f"last_timestep={self.last_timestep}",
            )
        return info

    def _stages(self, info):
        from diffqa_features.learned.control.features import default_stages

        if self.stages is None:
            return default_stages(info.stages)
        patterns = self.stages if isinstance(self.stages, str) else list(self.stages)
        names = select_blocks(patterns, [stage.name for stage in info.stages])
        return tuple(stage for stage in info.stages if stage.name in names)

    def _statistics(self):
        return self._choice("pooling", STATISTICS)

    def _frame_statistics(self):
        return self._choice("frame_pooling", FRAME_STATISTICS)

    def _framing(self, info):
        return super()._framing(
            info,
            frame_rate=float(self.frame_rate),
            max_frames=self.max_frames,
            reader=self.reader,
        )

    def _chain(self, info, **changes):
        from diffqa_features._utils.devices import pick_device
        from diffqa_features.learned.control.features import Chain

        settings = {
            "stages": self._stages(info),
            "n_steps": int(self.n_steps),
            "last_timestep": int(self.last_timestep),
            "seed": int(self.random_state),
            "dtype": self._arithmetic(pick_device(self.device)),
        }
        return Chain(**{**settings, **changes})

    # -- work --------------------------------------------------------------------------

    def _open(self, trained):
        """The backbone and the control module, with what was trained or untrained."""
        import torch

        from diffqa_features.learned.control.network import make_control

        backbone = self._load_backbone()
        with torch.inference_mode(False):
            weights = self.weights_ if trained else None
            return backbone, make_control(backbone.unet, weights)

    def _features(self, encoded, framing, chain):
        """Statistics of every map of every frame, by the key of its latent."""
        from diffqa_features._engine.pooling import pool_space
        from diffqa_features.learned.control.features import (
            fingerprint,
            stored_features,
        )

        store = as_store(self.memory)
        if store is not None:
            chain = replace(chain, control=fingerprint(self.weights_))
        return stored_features(
            {
                framing.key(key): latent
                for row in encoded
                for key, latent in zip(row.keys, row.latents, strict=True)
            },
            chain,
            lambda: self._open(trained=True),
            lambda maps: pool_space(maps, STATISTICS),
            _KEPT,
            store=store,
            batch_size=self.batch_size,
        )

    def _train(self, network, backbone, latents, past):
        """Predict the noise of every frame at random timesteps; the history."""
        import torch
        from torch.nn import functional as F

        from diffqa_features.learned.control.network import run_controlled

        count, shape = len(backbone.alphas_cumprod), latents.shape[1:]
        states = backbone.encode_text([""])[0]

        def step(chosen, generators):
            timesteps = torch.cat(
                [torch.randint(0, count, (1,), generator=g) for g in generators]
            )
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
            timesteps, noise = timesteps.to(backbone.device), noise.to(backbone.device)
            clean = torch.from_numpy(latents[chosen]).to(backbone.device)
            noisy = backbone.add_noise(clean, timesteps, noise)
            output, _ = run_controlled(
                backbone, network, noisy, clean, timesteps, states
            )
            predicted = backbone.to_noise(output, noisy, timesteps)
            return F.mse_loss(predicted, noise), None

        return self._run_training(
            network, step, len(latents), backbone, None, latents, past
        )
