"""`DiffusionQAFeatures`: media in, frozen diffusion features in named columns out."""

import numpy as np

from diffqa_features._engine import kinds as feature_kinds
from diffqa_features._engine.kinds import STATISTICS, Recipe
from diffqa_features._engine.request import FeatureLayout
from diffqa_features._utils.checks import InOrder
from diffqa_features.features._base import FRAME_STATISTICS, BackboneTransformer


class DiffusionQAFeatures(BackboneTransformer):
    """Quality features of images and videos from a frozen latent diffusion model.

    Each picture is encoded, noised to one or several timesteps, and shown once to the
    UNet under each prompt. What the UNet makes of it is pooled to named columns for
    any regressor. Nothing is trained: `fit` only checks the parameters.

    Parameters
    ----------
    backbone : str or path, default="tiny"
        The latent diffusion model: an alias (``"tiny"``, which ships with the package
        and works offline, ``"sd15"``, ``"sd21-base"``), a hub id
        (``"owner/name"`` or ``"owner/name@revision"``), or a local folder in diffusers
        layout. Loaded at first use, once per process, never pickled.

    timesteps : int or sequence of int, default=(50,)
        DDPM training steps in [0, 999] at which the picture is noised. Each adds
        columns and one UNet pass per prompt.

    blocks : str or list of str, default="all"
        Cross-attention blocks by name or pattern, in the order in which data meets
        them: ``down0.0 ... mid.0 up1.0 ... up3.2``. ``"up*"``, ``["mid.0",
        "down[01].*"]`` select; ``"all"`` is all. For ``hidden``, the stages of the
        chosen blocks and the stages that a pattern names (``"up0"``).

    prompts : str or sequence of str, default=("Good photo.", "Bad photo.")
        Texts that the pictures are compared with, any number. ``"{column}"`` is filled
        per row from a DataFrame `X`.

    kinds : str or sequence of str, default=("alignment", "error")
        What to keep of a pass:

        - ``"alignment"``: mean over heads and tokens of
          ``(1/0.14) log sum exp(0.14 S)`` over space, with ``S`` the attention logits
          of a block before the softmax (GenzIQA [1]_). One column per (timestep,
          block, prompt).
        - ``"query"``: the block's queries pooled over space, mean over prompts (the
          visual query of GenzVQA [1]_). One column per channel.
        - ``"attended"``: the block's cross-attention output, pooled over space.
        - ``"hidden"``: the hidden states that leave each UNet stage, pooled over
          space, mean over prompts (the multi-level features of DP-IQA [2]_).
        - ``"error"``: log RMS of the denoising error per latent channel and prompt,
          and the difference of the total RMS between the first two prompts (the bias
          of GenzIQA's released code, divided by the square root of the number of
          latent values). The spectrum is this library's own, from no paper.

        ``error`` needs the whole pass; the others stop after the last chosen block.

    pooling : str or sequence of str, default=("mean",)
        Statistics over space of ``query``, ``attended`` and ``hidden``: ``"mean"``,
        ``"std"``, ``"max"``.

    image_size : int, default=None
        Side of the picture that the backbone sees, pixels. ``None`` is the backbone's
        own size (512 for Stable Diffusion 1.5 and 2.1-base, 192 for ``tiny``).

    view : {"stretch", "fit", "crop"}, default="stretch"
        How a picture is brought to that size: stretched to a square as in the papers;
        its longer side scaled to it with the aspect ratio kept; or the central square
        cropped without scaling.

    frame_rate : float, default=1.0
        Frames per second taken from a video: those shown at 0.5 s + k / `frame_rate`
        for every integer k that leads into the video, so that 1 takes the frames at
        0.5 s, 1.5 s, ..., and 2 takes those and the ones at 0 s, 1 s, ... A frame that
        is shown at several of these moments is taken once; a rate above the video's
        takes every frame. Of a video too short for any of them the frame in the middle
        is taken. Times are those of presentation: variable rates and edit lists are
        followed, and no frame count is trusted. GIF, WebP, PNG and AVIF animations
        are videos too. Arrays of frames and pages of a TIFF have no clock and are taken
        whole.

    max_frames : int, default=None
        At most this many of those frames per row, the middles of as many equal
        segments. ``None`` sets no limit.

    reader : {"auto", "decord", "imageio"}, default="auto"
        What decodes video files. ``"imageio"`` is PyAV, the library of imageio's video
        plugin, and reads whatever FFmpeg reads. ``"decord"`` refuses files of which it
        does not give the same frames, as that one does: other codings than H.264,
        HEVC, VP9 and MJPEG, more than 8 bits, alpha, odd sizes, pictures to be
        turned, key frames that cannot be jumped to. ``"auto"`` takes decord for the
        files that it reads right, and imageio for the others and where decord is not
        installed or fails. Frames are the same and so are stored features. Damage
        is an error with all of them: nothing is patched up.

    frame_pooling : str or sequence of str, default=("mean",)
        Statistics over frames: ``"mean"``, ``"std"``, ``"max"``, ``"min"``. An image is
        a clip of one frame.

    random_state : int, default=0
        Seeds the noise. It depends on this seed, the timestep and the size of the
        latents only: it is the same for every row, batch, process and machine.

    memory : str, path or FeatureStore, default=None
        Folder in which passes are kept, per picture. With it a pass is kept whole (all
        blocks and statistics of the chosen kinds), so that a grid search over
        timesteps, blocks and pooling costs one UNet pass per (row, timestep, prompt)
        and one VAE encode per row.

    batch_size : int, default=None
        UNet rows (picture and prompt) per pass. ``None`` chooses by device. A batch
        that does not fit into memory is halved.

    device : str, default=None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``None`` takes the first
        accelerator there is, else the CPU.

    dtype : {"float32", "float16", "bfloat16"}, default=None
        Precision of the backbone. ``None`` is float16 on CUDA and float32 elsewhere;
        what overflows in half precision is taken again in float32. Features are
        float32 always.

    n_jobs : int, default=None
        Processes (any joblib backend), each with a backbone of its own. Refused on a
        GPU, where batches do the same without the memory.

    on_error : {"raise", "nan"}, default="raise"
        What to do with a row that cannot be read: raise at the first, or fill it with
        NaN, warn, and list it in ``failed_``.

    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    failed_ : list of (int, str)
        Position and reason of every row of the last call that could not be read.

    See Also
    --------
    PromptAlignmentMaps : Where in the picture each prompt is attended to.
    FeatureStore : What `memory` keeps.

    Notes
    -----
    Columns are named ``t50__up1.0__alignment__prompt0``,
    ``t50__mid.0__query__std__0042``, ``t50__error__prompt1__03``,
    ``t50__error__prompt0-prompt1``: parts are joined by a double underscore, so that a
    regular expression selects a timestep, block, kind, prompt, statistic or channel.
    With a `frame_pooling` other than ``("mean",)`` each name ends in ``__frames-mean``,
    ``__frames-std`` and so on.

    Frames of a video are its stored pixels, turned upright as the file says: fields are
    not separated, and pixels that are not square stay so. Colours are converted as the
    stream says (BT.601 where it says nothing), alpha is put on white, and more than
    8 bits are rounded to 8.

    A batch of n and n batches of one agree to about 1e-5 relative in float32, not
    bitwise.

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
        "kinds": [str, InOrder()],
        "pooling": [str, InOrder()],
        "frame_pooling": [str, InOrder()],
    }

    def __init__(
        self,
        backbone="tiny",
        *,
        timesteps=(50,),
        blocks="all",
        prompts=("Good photo.", "Bad photo."),
        kinds=("alignment", "error"),
        pooling=("mean",),
        image_size=None,
        view="stretch",
        frame_rate=1.0,
        max_frames=None,
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
        self.timesteps = timesteps
        self.blocks = blocks
        self.prompts = prompts
        self.kinds = kinds
        self.pooling = pooling
        self.image_size = image_size
        self.view = view
        self.frame_rate = frame_rate
        self.max_frames = max_frames
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
            Each row a path of an image or video, a ``PIL.Image``, an array (H, W),
            (H, W, 3) or (T, H, W, 3) of uint8 or of floats in [0, 1]; or an array
            (N, H, W, 3); or a DataFrame with the media in its column ``path``.

        Returns
        -------
        ndarray of shape (N, D), dtype float32
            One row per medium. A DataFrame after ``set_output``.

        Raises
        ------
        ValueError
            If a parameter is invalid, or a row cannot be read and `on_error` is
            ``"raise"``: the message names the row, the file, and the way out.
        OSError
            If the backbone or a file is not there.
        """
        return self._extract(X)

    def get_feature_names_out(self, input_features=None):
        """Names of the columns; needs no weights in memory.

        Parameters
        ----------
        input_features : object, default=None
            Ignored, there for scikit-learn.

        Returns
        -------
        ndarray of str of shape (D,)
            For example ``t50__up1.0__alignment__prompt0``.
        """
        return np.array([row["name"] for row in self.get_feature_metadata()], object)

    def get_feature_metadata(self):
        """What each column is, as data: for ablations and figures.

        Returns
        -------
        list of dict
            One per column, with the keys ``name``, ``timestep``, ``block`` (or stage),
            ``kind``, ``prompt`` (its text), ``statistic``, ``channel``,
            ``frame_statistic``, ``backbone`` and ``backbone_commit`` (of the hub);
            ``pandas.DataFrame`` takes the list as it is.
        """
        self._validate_params()
        info = self._check_parameters()
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
        layout = FeatureLayout(asked, self._timesteps(), len(self._prompts()))
        return self._recorded(info, asked), layout
