"""What GenzIQA and GenzVQA share: their parameters, timesteps, network and target."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._backbone.blocks import select_blocks
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.features._base import BackboneTransformer
from diffqa_features.learned._estimator import LearnedRegressor
from diffqa_features.metrics import srcc_score

_PROBED = 128  # pictures that the scale of scores is read from


class PromptGuidedRegressor(LearnedRegressor):
    """Base of the regressors that read block scores under learned prompts."""

    _DESIGN = (
        "prompts",
        "n_context",
        "context_position",
        "lora_rank",
        "blocks",
        "bias",
        "pooling_lambda",
        "image_size",
        "view",
        "normalization",
    )

    _parameter_constraints: dict = {
        **LearnedRegressor._parameter_constraints,
        "prompts": BackboneTransformer._parameter_constraints["prompts"],
        "blocks": BackboneTransformer._parameter_constraints["blocks"],
        "normalization": [StrOptions({"clip", "vae"})],
        "n_context": [Interval(Integral, 0, None, closed="left")],
        "context_position": [StrOptions({"end", "front"})],
        "lora_rank": [Interval(Integral, 0, None, closed="left")],
        "bias": ["boolean"],
        "pooling_lambda": [Interval(Real, 0, None, closed="neither")],
        "timestep_range": ["array-like"],
        "n_timesteps": [Interval(Integral, 1, None, closed="left")],
    }

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`; needs no weights in memory.

        Parameters
        ----------
        input_features : object, default=None
            Ignored, there for scikit-learn.

        Returns
        -------
        ndarray of str
            ``up1.0__score`` and so on, with a modulator ``up1.0__gamma``, then
            ``up1.0__query__0042``.
        """
        return self._column_names()

    # -- parameters to plan ------------------------------------------------------------

    def _plan(self):
        info = describe_backbone(self._backbone_name())
        self._checked_image_size(info)
        if self.bias and len(self._prompts()) < 2:
            raise self._complaint(
                "prompts",
                "at least two with bias=True, which is a difference between the first "
                "two; set bias=False to use one",
            )
        self._ensemble()
        self._chosen(info)
        return info

    def _chosen(self, info):
        patterns = self.blocks if isinstance(self.blocks, str) else list(self.blocks)
        names = select_blocks(patterns, [block.name for block in info.blocks])
        return [block for block in info.blocks if block.name in names]

    def _range(self):
        values = list(self.timestep_range)
        whole = all(isinstance(t, Integral) and not isinstance(t, bool) for t in values)
        if len(values) != 2 or not whole or not 0 <= values[0] < values[1] <= 1000:
            raise self._complaint(
                "timestep_range", "two ints, 0 <= lowest < highest <= 1000"
            )
        return int(values[0]), int(values[1])

    def _ensemble(self):
        from diffqa_features.learned.genziqa.network import ensemble_timesteps

        lowest, highest = self._range()
        if self.n_timesteps > highest - lowest:
            raise self._complaint(
                "n_timesteps",
                f"at most {highest - lowest}, the timesteps of timestep_range",
            )
        return ensemble_timesteps(lowest, highest, self.n_timesteps)

    def _probing(self):
        from diffqa_features.learned.genziqa.network import ensemble_timesteps

        lowest, highest = self._range()
        return ensemble_timesteps(lowest, highest, min(4, highest - lowest))

    # -- work ------------------------------------------------------------------------

    def _network(self, backbone, trained):
        import torch

        with torch.inference_mode(False):
            network = self._untrained(backbone)
        if trained:
            self._give_weights(network)
        return network.to(backbone.device)

    def _untrained(self, backbone):
        from diffqa_features.learned.genziqa.network import GenzIQANetwork

        return GenzIQANetwork(
            backbone, self._chosen(backbone.info), self._prompts(), **self._settings()
        )

    def _settings(self):
        return {
            "n_context": self.n_context,
            "context_position": self.context_position,
            "lora_rank": self.lora_rank,
            "bias": bool(self.bias),
            "sharpness": float(self.pooling_lambda),
            "seed": int(self.random_state),
        }

    def _read(self, network, backbone, latents, timesteps, queries=False):
        from diffqa_features.learned.genziqa.network import read_ensemble

        return read_ensemble(
            network,
            backbone,
            latents,
            timesteps,
            self.random_state,
            self._arithmetic(backbone.device),
            queries=queries,
        )

    def _scores(self, network, backbone, latents, timesteps):
        """Q, the mean over blocks and timesteps, float64 (N,)."""
        scores, _ = self._read(network, backbone, latents, timesteps)
        return scores.astype(np.float64).mean(axis=1)

    def _sampled(self, network, backbone, latents, generators):
        """Q of a training step, with its graph, float32 (n,)."""
        import torch

        picked = torch.from_numpy(latents)
        reading = network.sample(backbone, picked, *self._range(), generators)
        return reading.scores.mean(1)

    def _latents(self, rows, info):
        encoded = self._encode(rows, self._framing(info, stills_only=True))
        return np.concatenate([row.latents for row in encoded])  # (N, C, h, w)

    def _fit(self, latents, y, train, held, info, again):
        """Train, and only then change what is fitted.

        `latents` are what arrays of row numbers choose from, with ``latents[rows]``.
        """
        backbone = self._load_backbone()
        network = self._network(backbone, trained=again)
        if again:
            line, past = (self.slope_, self.intercept_), list(self.history_)
        else:
            line, past = self._line(network, backbone, latents, y, train), []
        history = self._train(
            network, backbone, latents, y, train, held, line, len(past)
        )
        if history or not again:
            line = self._calibrated(
                network, backbone, latents, y, train, line, bool(history)
            )
        weights = {
            name: value.detach().cpu().numpy().copy()
            for name, value in network.state_dict().items()
        }
        history = [{**new, "epoch": len(past) + new["epoch"]} for new in history]
        fitted = {
            "slope_": line[0], "intercept_": line[1], "history_": past + history
        }  # fmt: skip
        return self._restore(weights, info.identity, fitted, self._design())

    def _line(self, network, backbone, latents, y, train):
        """Slope and intercept that bring untrained scores into the units of y."""
        probed = self._probed(train)
        untrained = np.stack(
            [
                self._scores(network, backbone, latents[probed], (t,))
                for t in self._probing()
            ],
            axis=1,
        )
        return fit_line(untrained, y[probed], y[train])

    def _calibrated(self, network, backbone, latents, y, train, line, trained):
        """The line again, by least squares over scores as predictions have them.

        Squared error under random timesteps and noise shrinks predictions towards the
        mean, the more the shorter the training. The direction of a line that was
        trained with stays: where least squares would turn it, nothing was learned.
        """
        probed = self._probed(train)
        scores = self._scores(network, backbone, latents[probed], self._ensemble())
        centred = scores - scores.mean()
        agreement = float(centred @ (y[probed] - y[probed].mean()))
        if not agreement or (trained and agreement * line[0] < 0):
            return line
        slope = agreement / float(centred @ centred)
        return slope, float(y[probed].mean() - slope * scores.mean())

    def _probed(self, train):
        rng = np.random.default_rng(self.random_state)
        return np.sort(rng.permutation(train)[:_PROBED])

    def _train(self, network, backbone, latents, y, train, held, line, past):
        """Train on the rows `train`; validate on `held`, if any. Returns the history.

        The loss is the squared error in units of the target's standard deviation, so
        that clipping and history mean the same whatever the range of y.
        """
        import torch

        slope, intercept = line
        wanted = torch.from_numpy(y[train]).to(backbone.device, torch.float32)
        unit = float(wanted.std(correction=0)) or 1.0

        def step(chosen, generators):
            picked = latents[train[chosen]]
            sampled = self._sampled(network, backbone, picked, generators)
            predicted = intercept + slope * sampled
            errors = (predicted - wanted[chosen]) / unit
            return errors.square().mean(), predicted

        def validate():
            scores = self._scores(network, backbone, latents[held], self._ensemble())
            return srcc_score(y[held], intercept + slope * scores)

        facts = [(*self._range(), line, latents[train])]
        if held is not None:
            facts.append((self._ensemble(), y[held], latents[held]))
        return self._run_training(
            network,
            step,
            y[train],
            backbone,
            None if held is None else validate,
            facts,
            past,
        )

    def _column_names(self):
        blocks = self._chosen(self._plan())
        names = [f"{block.name}__score" for block in blocks]
        for block in blocks:
            names += [f"{block.name}__query__{c:04d}" for c in range(block.channels)]
        return np.array(names, object)


def fit_line(untrained, known, target):
    """Slope and intercept that bring scores (n, timesteps) into the target's units.

    Means become equal, and the target's spread becomes that of the scores over pictures
    and timesteps, or 1, the unit of logits, where they spread less: then the target
    would ask for smaller changes than noise makes. The slope is negative where
    untrained scores fall with the target: DMOS, where lower is better.
    """
    scores = untrained.mean(axis=1)
    agreement = (scores - scores.mean()) @ (known - known.mean())
    direction = 1.0 if agreement >= 0 else -1.0
    slope = direction * (target.std() or 1.0) / max(untrained.std(), 1.0)
    return float(slope), float(target.mean() - slope * scores.mean())
