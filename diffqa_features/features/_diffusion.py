"""`DiffusionQAFeatures`: media in, frozen diffusion features in named columns out."""

import numpy as np

from diffqa_features._engine import kinds as feature_kinds
from diffqa_features._engine.kinds import STATISTICS, Recipe
from diffqa_features._engine.request import FeatureLayout
from diffqa_features._media.views import VIEWS
from diffqa_features._utils.checks import InOrder
from diffqa_features.features._base import FRAME_STATISTICS, BackboneTransformer


class DiffusionQAFeatures(BackboneTransformer):
    """Quality features of images and videos from a frozen latent diffusion model.

    Each picture is encoded, noised to one or several timesteps, and passed through the
    UNet once per prompt. The UNet's attention, hidden states and denoising error are
    pooled into named columns for any regressor. Nothing is trained: `fit` only checks
    the parameters and remembers the model.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, which ships with the package
        and works offline, ``"sd15"``, ``"sd21-base"``, ``"sdxl"``), a hub id
        (``"owner/name"`` or ``"owner/name@revision"``), or a local folder in diffusers
        layout. It is loaded on first use, once per process, and never pickled.

    vae : str or path, default=None
        Autoencoder in place of the backbone's own: a folder or hub id of an
        ``AutoencoderTiny`` or ``AutoencoderKL`` that makes the same latents, such as
        ``"madebyollin/taesd"`` for Stable Diffusion 1 and 2, which encodes a picture in
        a small part of the time. Part of the backbone's identity, so stored features of
        two autoencoders never mix.

    timesteps : int or sequence of int, default=(50,)
        DDPM training steps in [0, 999] to noise the picture to. Each adds columns and
        one UNet pass per prompt.

    blocks : str or list of str, default="all"
        Cross-attention blocks by name or pattern, such as ``"up*"`` or ``["mid.0",
        "down[01].*"]``. Names in forward order: ``down0.0 ... mid.0 up1.0 ... up3.2``.
        For ``hidden``, the stages of the selected blocks and any stages that a pattern
        names (``"up0"``).

    prompts : str or sequence of str, default=("Good photo.", "Bad photo.")
        Any number of texts to compare the pictures with. ``"{column}"`` is filled per
        row from a DataFrame `X`.

    kinds : str or sequence of str, default=("alignment", "error")
        Features to compute:

        - ``"alignment"``: mean over heads and tokens of ``(1/0.14) log sum exp(0.14
          S)`` over space, where ``S`` are the attention logits of a block before the
          softmax (GenzIQA [1]_). One column per (timestep, block, prompt).
        - ``"query"``: the block's queries pooled over space, mean over prompts (the
          visual query of GenzVQA [1]_). One column per channel.
        - ``"attended"``: the block's cross-attention output, pooled over space.
        - ``"hidden"``: the output states of each UNet stage, pooled over space, mean
          over prompts (the multi-level features of DP-IQA [2]_).
        - ``"error"``: log RMS of the denoising error per latent channel and prompt,
          and the difference of the total RMS between the first two prompts (the bias
          of GenzIQA's released code, divided by the square root of the number of
          latent values). The per-channel values are this library's own and come from no
          paper.

        ``error`` needs the whole pass; the others stop after the last selected block.

    pooling : str or sequence of str, default=("mean",)
        Statistics over space of ``query``, ``attended`` and ``hidden``: ``"mean"``,
        ``"std"``, ``"max"``.

    image_size : int, default=None
        Side of the backbone's input in pixels. ``None`` uses the backbone's native size
        (512 for Stable Diffusion 1.5 and 2.1-base, 192 for ``tiny``).

    view : str or sequence of str, default="auto"
        How a picture is brought to that size:

        - ``"auto"``: ``"tiles"`` for a picture or frame of at least four times as many
          pixels as that square (384 x 384 for ``tiny``, 1,024 x 1,024 for Stable
          Diffusion 1.5) and no side shorter than it, ``"stretch"`` for others. A large
          picture costs up to `n_tiles` times as much. Columns are the same for both.
        - ``"stretch"``: scaled to a square, as in the papers.
        - ``"fit"``: scaled by its longer side, keeping the aspect ratio.
        - ``"crop"``: the central square of unscaled pixels.
        - ``"tiles"``: squares of unscaled pixels all over the picture, up to `n_tiles`,
          each a pass of its own.

        For ``"crop"`` and ``"tiles"`` only a picture whose shorter side is below that
        size is enlarged. Several views, such as ``("stretch", "tiles")``, give the
        columns of each, side by side, at the cost of each; ``"auto"`` stands alone.

    n_tiles : int or None, default=4
        Maximum number of tiles per picture or video frame. If fewer cover the picture,
        these are used, overlapping where its sides are no multiples of a tile's; else
        exactly so many, evenly spread. ``None`` always covers the picture: 24 tiles for
        12 megapixels at 1,024 pixels, and 336 at the 192 of ``tiny``.

    tile_pooling : str or sequence of str, default=("mean",)
        Statistics over the tiles of a picture or frame: ``"mean"``, ``"std"``,
        ``"max"``, ``"min"``.

    frame_rate : float, default=1.0
        Frames sampled per second of video: those shown at 0.5 s + k / `frame_rate` for
        every integer k that falls within the video. A rate of 1 samples at 0.5 s, 1.5
        s, ...; a rate of 2 adds 0 s, 1 s, ... A frame shown at several of these times
        is used once; a rate above the video's own uses every frame. A video too short
        for any sample contributes its middle frame. Times are presentation times:
        variable frame rates and edit lists are respected, and the container's frame
        count is never trusted. GIF, WebP, PNG and AVIF animations count as videos.
        Arrays of frames and multi-page TIFFs have no time base; all their frames are
        used.

    max_frames : int, default=None
        Maximum number of those frames per row, taken at the centres of equal segments.
        ``None`` sets no limit.

    frames : {"spread", "bursts"}, default="spread"
        ``"spread"`` takes one frame at each of those moments. ``"bursts"`` takes
        `burst_length` adjacent frames around it, between which only what moves or fails
        from one frame to the next has changed; `max_frames` remains the number of
        frames in all, so 16 are four bursts of four.

    burst_length : int, default=8
        Number of adjacent frames of a burst. A burst lies within the video: at its ends
        it begins later or earlier, and a video shorter than a burst is used whole. A
        frame of two bursts is used once, so overlapping bursts are one longer burst.

    reader : {"auto", "decord", "imageio"}, default="auto"
        Decoder for video files. ``"imageio"`` is PyAV, the library behind imageio's
        video plugin, and reads everything FFmpeg reads. ``"decord"`` raises an error
        for files from which it would not decode the same frames as PyAV: codecs other
        than H.264, HEVC, VP9 and MJPEG, more than 8 bits, alpha, odd sizes, rotated
        pictures, and key frames that cannot be seeked to. ``"auto"`` uses decord for
        the files that it decodes correctly, and imageio for all others and where decord
        is missing or fails. Frames, and therefore stored features, are identical. A
        damaged file is an error with every reader: no frame is concealed.

    frame_pooling : str or sequence of str, default=("mean",)
        Statistics over frames: ``"mean"``, ``"std"``, ``"max"``, ``"min"``. An image is
        a clip of one frame.

    random_state : int, default=0
        Seeds the noise, which depends only on this seed, the timestep and the size of
        the latents: it is the same for every row, batch, process and machine.

    memory : str, path or FeatureStore, default=None
        Folder or store that caches the passes, per picture. Each pass is stored whole
        (all blocks and statistics of the selected kinds), so a grid search over
        timesteps, blocks and pooling costs one UNet pass per (row, timestep, prompt)
        and one VAE encode per row.

    batch_size : int, default=None
        UNet rows (picture and prompt) per pass. ``None`` chooses by device and size
        of the picture. A batch that runs out of memory is halved.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` uses the first
        accelerator found, else the CPU.

    dtype : {"auto", "float32", "float16", "bfloat16"}, default=None
        Precision of the backbone. ``None`` means float16 on CUDA and float32 elsewhere.
        ``"auto"`` is the same but on a CPU with AMX, where it is bfloat16: faster, and
        with features slightly unlike those of other machines. What overflows in half
        precision is recomputed in float32. Features are always float32.

    n_jobs : int, default=None
        Processes (any joblib backend), each with its own backbone. Not allowed on a
        GPU, where larger batches have the same effect with less memory.

    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that cannot be read: raise at the first one; or fill them
        with NaN, warn, and list them in ``failed_``.

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
    PromptAlignmentMaps : Where in the picture each prompt is attended to.
    FeatureStore : The store behind `memory`.

    Notes
    -----
    Columns are named ``t50__up1.0__alignment__prompt0``,
    ``t50__mid.0__query__std__0042``, ``t50__error__prompt1__03``,
    ``t50__error__prompt0-prompt1``: parts are joined by a double underscore, so a
    regular expression can select a timestep, block, kind, prompt, statistic or channel.
    Columns of tiles end in ``__tiles-mean`` and so on, and with several views those of
    the others in ``__stretch``, ``__fit`` or ``__crop``. With ``view="auto"`` and a
    `tile_pooling` other than ``("mean",)`` they end in ``__auto-mean`` and so on.
    With a `frame_pooling` other than ``("mean",)`` each name ends in ``__frames-mean``,
    ``__frames-std`` and so on.

    Video frames are the stored pixels, rotated as the file's metadata says; interlaced
    fields are not separated, and non-square pixels are not resampled. Colours are
    converted with the stream's matrix (BT.601 if unspecified), alpha is composited over
    white, and higher bit depths are rounded to 8 bits.

    Results do not depend on the batch size beyond rounding: about 1e-5 relative in
    float32, not bitwise.

    References
    ----------
    .. [1] S. Mitra, D. De, S. Rao and R. Soundararajan, "Image and Video Quality
       Assessment using Prompt-Guided Latent Diffusion Models for Cross-Dataset
       Generalization", arXiv 2406.04654.
    .. [2] H. Fu, Y. Wang, W. Yang, A. C. Kot and B. Wen, "DP-IQA: Utilizing diffusion
       prior for blind image quality assessment in the wild", arXiv 2405.19996.

    Examples
    --------
    >>> from diffqa_features import DiffusionQAFeatures
    >>> from diffqa_features.datasets import make_procedural_images
    >>> images = make_procedural_images(2)
    >>> features = DiffusionQAFeatures(timesteps=(20, 50), blocks="up*")
    >>> features.fit_transform(images).shape
    (2, 166)
    >>> features.get_feature_names_out()[0]
    't20__up1.0__alignment__prompt0'
    """

    _parameter_constraints: dict = {
        **BackboneTransformer._parameter_constraints,
        "view": [str, InOrder()],
        "tile_pooling": [str, InOrder()],
        "kinds": [str, InOrder()],
        "pooling": [str, InOrder()],
        "frame_pooling": [str, InOrder()],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        vae=None,
        timesteps=(50,),
        blocks="all",
        prompts=("Good photo.", "Bad photo."),
        kinds=("alignment", "error"),
        pooling=("mean",),
        image_size=None,
        view="auto",
        n_tiles=4,
        tile_pooling=("mean",),
        frame_rate=1.0,
        max_frames=None,
        frames="spread",
        burst_length=8,
        reader="auto",
        frame_pooling=("mean",),
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
        self.kinds = kinds
        self.pooling = pooling
        self.image_size = image_size
        self.view = view
        self.n_tiles = n_tiles
        self.tile_pooling = tile_pooling
        self.frame_rate = frame_rate
        self.max_frames = max_frames
        self.frames = frames
        self.burst_length = burst_length
        self.reader = reader
        self.frame_pooling = frame_pooling
        self.random_state = random_state
        self.memory = memory
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.verbose = verbose

    def transform(self, X):
        """Compute the features of media rows.

        Parameters
        ----------
        X : list, array, Series or DataFrame of N media rows
            Each row a path or URL of an image or video, the bytes of one, a
            ``PIL.Image``, an array (H, W), (H, W, 3) or (T, H, W, 3) or a tensor
            (C, H, W) or (T, C, H, W), of uint8 or of floats in [0, 1]; or an array
            (N, H, W, 3) or a tensor (N, C, H, W); or a table with the media in its
            column ``path``, ``bytes``, ``image`` or ``video``, of pandas, polars, Arrow
            or Hugging Face.

        Returns
        -------
        ndarray of shape (N, D), dtype float32
            One row per medium. A DataFrame after ``set_output``.

        Raises
        ------
        ValueError
            If a parameter is invalid, or a row cannot be read and `on_error` is
            ``"raise"``: the message names the row, the file and a remedy.
        OSError
            If the backbone or a file cannot be found.
        """
        return self._extract(X)

    def get_feature_names_out(self, input_features=None):
        """Get the column names without loading weights.

        Parameters
        ----------
        input_features : object, default=None
            Ignored; present for API consistency.

        Returns
        -------
        ndarray of str of shape (D,)
            For example ``t50__up1.0__alignment__prompt0``.
        """
        return np.array([row["name"] for row in self.get_feature_metadata()], object)

    def get_feature_metadata(self):
        """Describe each column as data, for ablations and figures.

        Returns
        -------
        list of dict
            One per column, with the keys ``name``, ``timestep``, ``block`` (or stage),
            ``kind``, ``prompt`` (its text), ``statistic``, ``channel``, ``view``,
            ``tile_statistic``, ``frame_statistic``, ``backbone`` and
            ``backbone_commit`` (for hub models); ``pandas.DataFrame`` accepts this list
            directly.
        """
        self._validate_params()
        info = self._check_parameters()
        self._check_frozen(info)
        _, layout = self._recipe_and_layout(info)
        prompts = self._prompts()
        texts = {f"prompt{k}": text for k, text in enumerate(prompts)}
        several = self._frame_statistics() != ("mean",)
        return [
            {
                "name": column.name + (f"__frames-{pooled}" if several else ""),
                "timestep": column.timestep,
                "block": column.block or None,
                "kind": column.kind,
                "prompt": texts.get(column.prompt, column.prompt or None),
                "statistic": column.statistic or None,
                "channel": column.channel,
                "view": column.view,
                "tile_statistic": column.tile_statistic or None,
                "frame_statistic": pooled,
                "backbone": info.name,
                "backbone_commit": info.commit,
            }
            for pooled in self._frame_statistics()
            for column in layout.columns()
        ]

    def _check_parameters(self):
        info = super()._check_parameters()
        self._recipe_and_layout(info)
        return info

    def _views(self):
        views = self._choice("view", VIEWS)
        if "auto" in views and len(views) > 1:
            raise self._complaint("view", "'auto' alone or several of the others")
        return views

    def _frame_statistics(self):
        return self._choice("frame_pooling", FRAME_STATISTICS)

    def _recipe_and_layout(self, info):
        known = {kind.name: kind for kind in feature_kinds.KINDS}
        kinds = [known[name] for name in self._choice("kinds", known)]
        statistics = self._choice("pooling", STATISTICS)
        blocks, stages = self._selected(info)
        for kind in kinds:
            if kind.scope == "block" and not blocks:
                raise ValueError(
                    f"blocks={self.blocks!r} names stages of {info.name} without "
                    f"cross-attention, and the kind {kind.name!r} is read at blocks: "
                    f"{', '.join(block.name for block in info.blocks)}."
                )
        asked = Recipe(tuple(kinds), blocks, stages, statistics, info.latent_channels)
        layout = FeatureLayout(
            asked,
            self._timesteps(),
            len(self._prompts()),
            self._views(),
            self._choice("tile_pooling", FRAME_STATISTICS),
        )
        return self._recorded(info, asked), layout
