"""`PromptAlignmentMaps`: media in, where each prompt is attended to out."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from diffqa_features._engine.kinds import AttentionMap, Recipe
from diffqa_features._media.views import stitch_maps
from diffqa_features.features._base import BackboneTransformer


class PromptAlignmentMaps(BackboneTransformer):
    """Maps of how much a frozen diffusion model attends to each prompt.

    One pass over the noised latent per prompt. At each selected block, the attention of
    every position to the prompt's own words (without start, end and padding tokens) is
    averaged over heads and words, resampled to a common grid, and averaged over blocks
    and timesteps.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        See `DiffusionQAFeatures`.

    vae : str or path, default=None
        Autoencoder in place of the backbone's own; see `DiffusionQAFeatures`.

    timesteps : int or sequence of int, default=(50,)
        DDPM training steps in [0, 999]; maps are averaged over them.

    blocks : str or list of str, default="all"
        Cross-attention blocks by name or pattern; maps are averaged over them.

    prompts : str or sequence of str, default=("Good photo.", "Bad photo.")
        Texts, one map each. ``"{column}"`` is filled per row from a DataFrame `X`.

    map_size : (int, int), default=(16, 16)
        Rows and columns of the grid that all levels of the UNet are resampled to.

    signed : bool, default=False
        ``False``: the softmax over all tokens, in [0, 1], which is how the UNet weights
        them. ``True``: the logits before the softmax minus their mean over the picture,
        so that a position can also score below average for a prompt.

    image_size : int, default=None
        Side of the backbone's input in pixels; ``None`` uses its native size.

    view : {"stretch", "fit", "crop", "tiles", "auto"}, default="stretch"
        How a picture is brought to that size; see `DiffusionQAFeatures`. The maps of
        ``"tiles"`` are put together to one map of the whole picture: a position is the
        mean of the tiles that show it, by area, and one that no tile shows is that of
        the nearest that is shown. With `signed`, each tile is relative to its own mean.

    n_tiles : int or None, default=9
        Maximum number of tiles per picture or frame; ``None`` covers all of it.

    frame_rate : float, default=1.0
        Frames sampled per second of video; see `DiffusionQAFeatures`.

    max_frames : int, default=None
        At most this many frames per row; maps are averaged over frames.

    frames : {"spread", "bursts"}, default="spread"
        One frame at each sampled moment, or `burst_length` adjacent ones. See
        `DiffusionQAFeatures`.

    burst_length : int, default=8
        Number of adjacent frames of a burst.

    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files; see `DiffusionQAFeatures`.

    random_state : int, default=0
        Seeds the noise.

    memory : str, path or FeatureStore, default=None
        Folder or store that caches the passes, per picture.

    batch_size : int, default=None
        UNet rows (picture and prompt) per pass.

    device : str, default=None
        ``None`` uses the first accelerator found, else the CPU.

    dtype : {"auto", "float32", "float16", "bfloat16"}, default=None
        Precision of the backbone; ``None`` is float16 on CUDA, else float32, and
        ``"auto"`` bfloat16 on a CPU with AMX.

    n_jobs : int, default=None
        Processes, each with its own backbone.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read.

    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    failed_ : list of (int, str)
        Index and reason for every row of the last call that could not be read.
    frozen_identity_ : str
        Fingerprint of the model's weights and configuration at `fit`. `transform`
        refuses others.

    See Also
    --------
    DiffusionQAFeatures : Numbers pooled over the picture.

    Notes
    -----
    Attention is computed from the queries and keys of the unmodified forward pass of
    diffusers, on a real picture rather than a generated one. Averaging over heads and
    layers follows DAAM [1]_.

    References
    ----------
    .. [1] R. Tang et al., "What the DAAM: Interpreting Stable Diffusion using cross
       attention", ACL 2023.

    Examples
    --------
    >>> from diffqa_features import PromptAlignmentMaps
    >>> from diffqa_features.datasets import make_procedural_images
    >>> images = make_procedural_images(1)
    >>> maps = PromptAlignmentMaps(prompts=["sharp photo.", "blurred photo."])
    >>> maps.maps(images).shape
    (1, 2, 16, 16)
    """

    _parameter_constraints: dict = {
        **BackboneTransformer._parameter_constraints,
        "map_size": [tuple, list],
        "signed": ["boolean"],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        vae=None,
        timesteps=(50,),
        blocks="all",
        prompts=("Good photo.", "Bad photo."),
        map_size=(16, 16),
        signed=False,
        image_size=None,
        view="stretch",
        n_tiles=9,
        frame_rate=1.0,
        max_frames=None,
        frames="spread",
        burst_length=8,
        reader="auto",
        random_state=0,
        memory=None,
        batch_size=None,
        device=None,
        dtype=None,
        n_jobs=None,
        on_error="raise",
        verbose=0,
    ):
        self.backbone = backbone
        self.vae = vae
        self.timesteps = timesteps
        self.blocks = blocks
        self.prompts = prompts
        self.map_size = map_size
        self.signed = signed
        self.image_size = image_size
        self.view = view
        self.n_tiles = n_tiles
        self.frame_rate = frame_rate
        self.max_frames = max_frames
        self.frames = frames
        self.burst_length = burst_length
        self.reader = reader
        self.random_state = random_state
        self.memory = memory
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.verbose = verbose

    def transform(self, X):
        """Compute the maps as named columns.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            See `DiffusionQAFeatures.transform`.

        Returns
        -------
        ndarray of shape (N, K * h * w), dtype float32
            Ordered by prompt, then by row of the grid. A DataFrame after
            ``set_output``.
        """
        return self._extract(X)

    def maps(self, X):
        """Compute the maps as pictures.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            See `DiffusionQAFeatures.transform`.

        Returns
        -------
        ndarray of shape (N, K, h, w), dtype float32
            One map per row of `X` and prompt, regardless of ``set_output``.
        """
        matrix = self._extract(X)
        return matrix.reshape(len(matrix), len(self._prompts()), *self._map_size())

    def get_feature_names_out(self, input_features=None):
        """Get the column names without loading weights.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str of shape (K * h * w,)
            For example ``map__prompt0__y03__x11``.
        """
        self._validate_params()
        _, layout = self._recipe_and_layout(self._check_parameters())
        return np.array(layout.names(), dtype=object)

    def _check_parameters(self):
        info = super()._check_parameters()
        self._recipe_and_layout(info)
        return info

    def _map_size(self):
        size = tuple(self.map_size)
        if len(size) != 2 or not all(isinstance(s, Integral) and s > 0 for s in size):
            raise self._complaint("map_size", "two positive ints (rows, columns)")
        return int(size[0]), int(size[1])

    def _recipe_and_layout(self, info):
        blocks, _ = self._selected(info)
        if not blocks:
            raise ValueError(
                f"blocks={self.blocks!r} names stages of {info.name} without "
                "cross-attention, where no prompt is attended to."
            )
        kind = AttentionMap(self._map_size(), bool(self.signed))
        asked = Recipe((kind,), blocks, (), (), info.latent_channels)
        layout = _MapLayout(asked, self._timesteps(), len(self._prompts()))
        return self._recorded(info, asked), layout


@dataclass(frozen=True)
class _MapLayout:
    """Columns: prompt, row and column of the grid; tiles share one grid."""

    asked: Recipe
    timesteps: tuple[int, ...]
    n_prompts: int

    @property
    def width(self):
        height, width = self.asked.kinds[0].size
        return self.n_prompts * height * width

    def names(self):
        height, width = self.asked.kinds[0].size
        return [
            f"map__prompt{k}__y{y:02d}__x{x:02d}"
            for k in range(self.n_prompts)
            for y in range(height)
            for x in range(width)
        ]

    def pool_tiles(self, table, windows):
        """Put the maps of tiles together: float32 (K * h * w,)."""
        size = self.asked.kinds[0].size
        maps = table.reshape(len(table), self.n_prompts, *size)
        return stitch_maps(maps, windows, size).astype(np.float32).ravel()

    def assemble(self, recorded, records):
        """Average over timesteps and blocks: float32 (K * h * w,)."""
        (kind,) = self.asked.kinds
        return np.concatenate(
            [
                np.mean(
                    [
                        recorded.read(records[t, k, kind.name], kind, block.name)
                        for t in self.timesteps
                        for block in self.asked.blocks
                    ],
                    axis=0,
                )
                for k in range(self.n_prompts)
            ]
        ).astype(np.float32)
