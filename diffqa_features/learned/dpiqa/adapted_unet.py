"""How `DPIQARegressor` works: parameters to plan, pictures to network, and training."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._store.store import as_store
from diffqa_features.learned._estimator import LearnedRegressor
from diffqa_features.learned._pictures import Pictures, encode_pictures
from diffqa_features.metrics import srcc_score


class AdaptedUNetRegressor(LearnedRegressor):
    """Base of the regressor with adapters around a UNet and a decoder behind it."""

    _DESIGN = (
        "qualities",
        "scenes",
        "distortions",
        "text_model",
        "train_unet",
        "decoder_width",
        "timestep",
        "image_size",
        "view",
        "normalization",
    )

    _parameter_constraints: dict = {
        **LearnedRegressor._parameter_constraints,
        "qualities": ["array-like", None],
        "scenes": ["array-like", None],
        "distortions": ["array-like", None],
        "text_model": LearnedRegressor._parameter_constraints["checkpoint_dir"],
        "train_unet": ["boolean"],
        "decoder_width": [Interval(Integral, 8, None, closed="left"), None],
        "timestep": [Interval(Integral, 0, 999, closed="both")],
        "normalization": [StrOptions({"unit", "vae"})],
        "ranking_weight": [Interval(Real, 0, None, closed="left")],
        "ranking_margin": [Interval(Real, 0, None, closed="left")],
        "milestones": ["array-like"],
        "decay": [Interval(Real, 0, 1, closed="right")],
        "gradient_clip": [Interval(Real, 0, None, closed="neither"), None],
    }

    # -- parameters to plan ------------------------------------------------------------

    def _plan(self):
        info = describe_backbone(self._backbone_name())
        self._checked_image_size(info)
        self._grid_of_prompts(info)
        epochs = list(self.milestones)
        if not all(isinstance(e, Integral) and e > 0 for e in epochs):
            raise self._complaint("milestones", "positive ints, numbers of epochs")
        return info

    def _grid_of_prompts(self, info):
        from diffqa_features.learned.dpiqa import prompts as _prompt_grid

        lists = []
        for name in ("qualities", "scenes", "distortions"):
            value = getattr(self, name)
            words = getattr(_prompt_grid, name.upper()) if value is None else value
            good = not isinstance(words, str) and all(
                isinstance(word, str) for word in words
            )
            if not good or not len(words) or len(set(words)) < len(words):
                raise self._complaint(name, "distinct str, at least one, or None")
            lists.append([str(word) for word in words])
        return _prompt_grid.make_prompts(*lists, info.text_length)

    # -- pictures and network ----------------------------------------------------------

    def _encoded(self, rows, info):
        """Key, latents and view of pictures, some rows at a time."""
        framing = self._framing(info, stills_only=True)
        return encode_pictures(rows, lambda some, see: self._encode(some, framing, see))

    def _tokens(self, backbone):
        from diffqa_features.learned.dpiqa.prompts import encode_prompts

        name = None if self.text_model is None else str(self.text_model)
        prompts = self._grid_of_prompts(backbone.info)
        tokens = encode_prompts(backbone, prompts, name, as_store(self.memory))
        width = backbone.unet.config.cross_attention_dim
        widths = list(width) if isinstance(width, (list, tuple)) else [width]
        if any(tokens.shape[1] != width for width in widths):
            raise self._complaint(
                "text_model",
                f"a model whose text features have the {widths[0]} channels that the "
                f"UNet of {backbone.info.name!r} reads, and not {tokens.shape[1]}",
            )
        return tokens

    def _build(self, backbone, tokens, seed):
        """A network with first weights or, without a seed, with none."""
        import torch

        from diffqa_features.learned.dpiqa.network import DPIQANetwork

        info = backbone.info
        # The lock: a copy must not take along the hooks of another thread's pass.
        with torch.inference_mode(False), backbone.lock:
            return DPIQANetwork(
                backbone.unet,
                torch.from_numpy(np.array(tokens)),
                own_unet=bool(self.train_unet),
                factor=info.latent_factor,
                grid=self._checked_image_size(info) // info.latent_factor,
                width=None if self.decoder_width is None else int(self.decoder_width),
                timestep=int(self.timestep),
                seed=seed,
            )

    def _network(self, backbone, weights=None, trains=False):
        """A network on the device, with first weights or with these arrays.

        One that does not train takes the arrays as they are, where torch can.
        """
        import torch

        from diffqa_features._backbone.weights import layout_of

        with torch.inference_mode(False):
            if weights is None:
                tokens = self._tokens(backbone)
                network = self._build(backbone, tokens, int(self.random_state))
            else:
                network = self._build(backbone, weights["tokens"], None)
                kept = {
                    name: value.copy() if trains or not value.flags.writeable else value
                    for name, value in weights.items()
                }
                network.take_weights({k: torch.from_numpy(v) for k, v in kept.items()})
            for value in network.parameters():
                moved = value.data.to(backbone.device)
                value.data = moved.to(memory_format=layout_of(moved))
            network.tokens = network.tokens.to(backbone.device)
        return network.requires_grad_(trains)

    def _reader(self, backbone, network):
        """A function from latents and views of any number of pictures to `Quality`."""
        import torch

        from diffqa_features._engine.passes import rows_per_pass
        from diffqa_features._media.views import to_pixels
        from diffqa_features._utils.batching import in_halves
        from diffqa_features.learned._training import precision
        from diffqa_features.learned.dpiqa.decoder import Quality

        device = backbone.device
        dtype = self._arithmetic(device)
        with torch.no_grad(), precision(device, dtype):
            # Once for all pictures: it depends on the weights only.
            condition = network.condition_of(backbone)
        size = rows_per_pass(backbone)

        @torch.no_grad()
        def run(pairs):
            latents, views = (np.stack(part) for part in zip(*pairs))
            with precision(device, dtype):
                quality = network(
                    backbone,
                    torch.from_numpy(latents).to(device),
                    to_pixels(views, "unit").to(device),
                    condition,
                )
            return [v.float().cpu().numpy() for v in vars(quality).values()]

        def read(latents, views):
            nonlocal size
            parts, size = in_halves(run, list(zip(latents, views)), size)
            return Quality(*(np.concatenate(part) for part in zip(*parts)))

        return read

    def _read(self, X, take):
        """What `take` makes of each `Quality`, a list of arrays, for all pictures."""
        from diffqa_features._media.rows import as_rows

        info = self._check_fitted()
        rows = as_rows(X)
        backbone = self._load_backbone()
        network = self._network(backbone, self.weights_)
        read = self._reader(backbone, network)
        parts = []
        for some in self._encoded(rows, info):
            _, latents, views = zip(*some)
            parts.append(take(read(latents, views)))
        return [np.concatenate(part) for part in zip(*parts)]

    def _in_units(self, scores):
        return self.intercept_ + self.slope_ * scores.astype(np.float64)

    def _take_released(self, path):
        """Become what a checkpoint of the authors holds."""
        from diffqa_features.learned.dpiqa.released import ReleasedTeacher

        released = ReleasedTeacher(path)
        self._validate_params()
        grid, width = released.sizes()
        factor = describe_backbone(self._backbone_name()).latent_factor
        self.set_params(image_size=grid * factor, decoder_width=width)
        info = self._plan()
        backbone = self._load_backbone()
        tokens = self._tokens(backbone)
        names = self._build(backbone, tokens, None).state_dict()
        wanted = {k: v.shape for k, v in names.items() if k != "tokens"}
        weights = {"tokens": np.array(tokens), **released.weights(wanted)}
        fitted = {"slope_": 100.0, "intercept_": 0.0, "history_": []}
        return self._restore(weights, info.identity, fitted, self._design())

    # -- training ----------------------------------------------------------------------

    def _fit(self, rows, y, train, held, info, again):
        """Train, and only then change what is fitted."""
        backbone = self._load_backbone()
        past = list(self.history_) if again else []
        line = (self.slope_, self.intercept_) if again else _line(y[train])
        pictures = Pictures(len(rows))
        for some in self._encoded(rows, info):
            for key, latents, view in some:
                pictures.add(key, latents, view)
        weights = self.weights_ if again else None
        network = self._network(backbone, weights, trains=True)
        history = self._train(
            network, backbone, pictures, y, train, held, line, len(past)
        )
        weights = {
            name: np.array(value.detach().cpu().numpy(), order="C")
            for name, value in network.state_dict().items()
        }
        history = [{**new, "epoch": len(past) + new["epoch"]} for new in history]
        fitted = {
            "slope_": line[0], "intercept_": line[1], "history_": past + history
        }  # fmt: skip
        return self._restore(weights, info.identity, fitted, self._design())

    def _train(self, network, backbone, pictures, y, train, held, line, past):
        """Train on the rows `train`, validate on `held`, if any; return the history."""
        import torch

        from diffqa_features._media.views import to_pixels
        from diffqa_features.learned.dpiqa.losses import margin_ranking_loss

        device = backbone.device
        slope, intercept = line
        scaled = (y - intercept) / slope
        wanted = torch.from_numpy(scaled[train]).to(device, torch.float32)

        def step(chosen, generators):
            latents, views = pictures.take(train[chosen])
            quality = network(
                backbone,
                torch.from_numpy(latents).to(device),
                to_pixels(views, "unit").to(device),
            )
            scores, target = quality.scores.float(), wanted[chosen]
            loss = (scores - target).square().mean()
            if self.ranking_weight:
                ranking = margin_ranking_loss(scores, target, self.ranking_margin)
                loss = loss + self.ranking_weight * ranking
            return loss, intercept + slope * scores

        def validate():
            read, scores = self._reader(backbone, network), []
            for rows in np.array_split(held, -(-len(held) // 64)):
                scores.append(read(*pictures.take(rows)).scores)
            return srcc_score(y[held], np.concatenate(scores))

        keys = np.array(pictures.keys)
        facts = [line, scaled[train], list(keys[train])]
        facts += [float(self.ranking_weight), float(self.ranking_margin)]
        if held is not None:
            facts.append((y[held], list(keys[held])))
        return self._run_training(
            network,
            step,
            y[train],
            backbone,
            None if held is None else validate,
            facts,
            past,
        )


def _line(y):
    """Slope and intercept from scores around 0 with a range of 1 to the units of y."""
    return float(y.max() - y.min()) or 1.0, float(y.mean())
