"""`GenzIQARegressor`: pictures and opinion scores in, a tuned diffusion model out."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._blocks import select_blocks
from diffqa_features._media import as_rows
from diffqa_features.learned._estimator import LearnedRegressor

_PROBED = 256  # pictures that the scale of untrained scores is read from


class GenzIQARegressor(LearnedRegressor):
    """DOC"""

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
        "n_context": [Interval(Integral, 0, None, closed="left")],
        "context_position": [StrOptions({"end", "front"})],
        "lora_rank": [Interval(Integral, 0, None, closed="left")],
        "bias": ["boolean"],
        "pooling_lambda": [Interval(Real, 0, None, closed="neither")],
        "timestep_range": ["array-like"],
        "n_timesteps": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        prompts=("Good Photo.", "Bad Photo."),
        n_context=16,
        context_position="end",
        lora_rank=4,
        blocks="all",
        bias=True,
        pooling_lambda=0.14,
        timestep_range=(0, 100),
        n_timesteps=8,
        image_size=None,
        view="stretch",
        normalization="clip",
        max_epochs=10,
        batch_size=16,
        accumulation=1,
        learning_rate=1e-4,
        weight_decay=1e-2,
        gradient_clip=1.0,
        validation_fraction=None,
        patience=3,
        warm_start=False,
        checkpoint_dir=None,
        random_state=0,
        memory=None,
        device=None,
        dtype=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.prompts = prompts
        self.n_context = n_context
        self.context_position = context_position
        self.lora_rank = lora_rank
        self.blocks = blocks
        self.bias = bias
        self.pooling_lambda = pooling_lambda
        self.timestep_range = timestep_range
        self.n_timesteps = n_timesteps
        self.image_size = image_size
        self.view = view
        self.normalization = normalization
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.memory = memory
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def fit(self, X, y, groups=None):
        """Train context vectors and low-rank factors."""
        self._validate_params()
        rows = as_rows(X)
        y = self._check_target(rows, y)
        info = self._plan()
        train, held = self._split(y, groups)
        going_on = self.warm_start and hasattr(self, "weights_")
        if going_on:
            self._check_fitted()
        encoded = self._encode(rows, self._framing(info, stills_only=True))
        latents = np.concatenate([row.latents for row in encoded])  # (N, C, h, w)
        backbone = self._load_backbone()
        network = self._network(backbone)
        if going_on:
            self._give_weights(network)
            slope, intercept = self.slope_, self.intercept_
        network.to(backbone.device)
        if not going_on:
            untrained = self._scores(
                network, backbone, latents[train[:_PROBED]], self._middle()
            )
            slope, intercept = fit_line(untrained, y[train[:_PROBED]], y[train])
        past = list(self.history_) if going_on else []
        history = self._train(
            network, backbone, latents, y, (slope, intercept), train, held, past,
            [row.keys for row in encoded], info,
        )  # fmt: skip
        self._keep_weights(network)
        self.slope_, self.intercept_ = slope, intercept
        self.history_ = past + [
            {**record, "epoch": len(past) + record["epoch"]} for record in history
        ]
        self.design_ = self._design()
        self.backbone_identity_ = info.identity
        return self

    def predict(self, X):
        """Predict scores of pictures."""
        info = self._check_fitted()
        latents = self._latents(X, info)
        backbone = self._load_backbone()
        network = self._fitted_network(backbone)
        scores = self._scores(network, backbone, latents, self._ensemble())
        return self.intercept_ + self.slope_ * scores

    def transform(self, X):
        """Block scores and tuned queries of pictures."""
        info = self._check_fitted()
        from diffqa_features.learned._genziqa_network import read_ensemble

        latents = self._latents(X, info)
        backbone = self._load_backbone()
        parts = read_ensemble(
            self._fitted_network(backbone),
            backbone,
            latents,
            self._ensemble(),
            self.random_state,
            self._arithmetic(backbone.device),
            queries=True,
        )
        return np.concatenate(parts, axis=1)

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`."""
        info = self._plan()
        blocks = self._chosen(info)
        return np.array(
            [f"{block.name}__score" for block in blocks]
            + [
                f"{block.name}__query__{channel:04d}"
                for block in blocks
                for channel in range(block.channels)
            ],
            object,
        )

    # -- parameters to plan ------------------------------------------------------------

    def _plan(self):
        from diffqa_features._resolve import describe_backbone

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
        whole = all(
            isinstance(t, Integral) and not isinstance(t, bool) for t in values
        )
        if len(values) != 2 or not whole or not 0 <= values[0] < values[1] <= 1000:
            raise self._complaint(
                "timestep_range", "two ints, 0 <= lowest < highest <= 1000"
            )
        return int(values[0]), int(values[1])

    def _ensemble(self):
        from diffqa_features.learned._genziqa_network import ensemble_timesteps

        lowest, highest = self._range()
        if self.n_timesteps > highest - lowest:
            raise self._complaint(
                "n_timesteps",
                f"at most {highest - lowest}, the timesteps of timestep_range",
            )
        return ensemble_timesteps(lowest, highest, self.n_timesteps)

    def _middle(self):
        from diffqa_features.learned._genziqa_network import ensemble_timesteps

        return ensemble_timesteps(*self._range(), 1)

    # -- work ------------------------------------------------------------------------

    def _latents(self, X, info):
        framing = self._framing(info, stills_only=True)
        encoded = self._encode(as_rows(X), framing)
        return np.concatenate([row.latents for row in encoded])

    def _network(self, backbone):
        from diffqa_features.learned._genziqa_network import GenzIQANetwork

        return GenzIQANetwork(
            backbone,
            self._chosen(backbone.info),
            self._prompts(),
            n_context=self.n_context,
            context_position=self.context_position,
            lora_rank=self.lora_rank,
            bias=bool(self.bias),
            sharpness=float(self.pooling_lambda),
            seed=self.random_state,
        )

    def _fitted_network(self, backbone):
        network = self._network(backbone)
        self._give_weights(network)
        return network.to(backbone.device)

    def _scores(self, network, backbone, latents, timesteps):
        """Q, the mean over blocks and timesteps, float64 (N,)."""
        from diffqa_features.learned._genziqa_network import read_ensemble

        dtype = self._arithmetic(backbone.device)
        scores, _ = read_ensemble(
            network, backbone, latents, timesteps, self.random_state, dtype
        )
        return scores.astype(np.float64).mean(axis=1)

    def _train(
        self, network, backbone, latents, y, line, train, held, past, keys, info
    ):
        import torch

        from diffqa_features.learned import _training
        from diffqa_features.metrics import srcc_score

        slope, intercept = line
        unit = y[train].std() or 1.0
        wanted = torch.from_numpy(y[train]).to(backbone.device, torch.float32)
        lowest, highest = self._range()

        def step(rows, generator):
            reading = network.sample(
                backbone, torch.from_numpy(latents[train[rows]]), lowest, highest, generator
            )
            predicted = intercept + slope * reading.scores.mean(1)
            loss = ((predicted - wanted[rows]) / unit).square().mean()
            return loss, predicted

        def validate():
            scores = self._scores(network, backbone, latents[held], self._ensemble())
            return srcc_score(y[held], intercept + slope * scores)

        facts = {
            **self._design(),
            **{n: getattr(self, n) for n in _SCHEDULING},
            "range": (lowest, highest),
            "ensemble": None if held is None else self._ensemble(),
        }
        checkpoint = None
        if self.checkpoint_dir is not None:
            key = _training.run_key(
                type(self).__name__, info.identity, facts, keys, y.tolist(),
                train.tolist(), line, len(past), str(self._arithmetic(backbone.device)),
                tensors=network.state_dict(),
            )  # fmt: skip
            checkpoint = Path(self.checkpoint_dir).expanduser() / f"genziqa-{key}.pt"
        schedule = _training.Schedule(
            **{name: getattr(self, name) for name in _SCHEDULING},
            seed=_training.seed_of(self.random_state, len(past)),
            dtype=self._arithmetic(backbone.device),
            checkpoint=checkpoint,
            verbose=self.verbose,
        )
        return _training.train(
            network,
            step,
            y[train],
            schedule,
            backbone.device,
            None if held is None else validate,
        )


_SCHEDULING = (
    "max_epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "gradient_clip",
    "accumulation",
    "patience",
)


def fit_line(untrained, known, target):
    """Slope and intercept that bring untrained scores into the units of the target.

    Mean and spread become the target's. The slope is negative where untrained scores
    fall with the target: DMOS, where lower is better.
    """
    centred = untrained - untrained.mean()
    direction = 1.0 if centred @ (known - known.mean()) >= 0 else -1.0
    spread = untrained.std() or 1.0
    slope = direction * (target.std() or 1.0) / spread
    return float(slope), float(target.mean() - slope * untrained.mean())
