"""A picture and timesteps in, its noised and denoised versions out."""

from itertools import chain

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features._media.rows import as_rows, open_media, take_rows
from diffqa_features._media.views import view_for, view_frames
from diffqa_features.inspection._style import (
    COLUMN,
    LUMINANCE,
    PAGE,
    TEXT,
    small,
    title,
)

_SSIM = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5}
_SSIM["use_sample_covariance"] = False  # Wang et al. (2004)
_SMALLEST = 11  # its window must fit


class NoiseRoundTripDisplay:
    """Picture noised in latent space to some timesteps, and denoised again.

    The left column shows the picture and its reconstruction by the VAE alone. Each
    further column shows a decoded noised latent and, below, its restoration by the
    frozen UNet.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), dtype uint8
        The picture as the backbone sees it.

    decoded : ndarray of shape (H, W, 3), dtype uint8
        The picture, encoded and decoded without noise.

    timesteps : sequence of int of length T
        DDPM training steps in [0, 999].

    noise_levels : ndarray of shape (T,)
        Standard deviation of the noise in each latent, in (0, 1).

    noised : ndarray of shape (T, H, W, 3), dtype uint8
        The noised latents, decoded.

    restored : ndarray of shape (T, H, W, 3), dtype uint8
        The denoised latents, decoded.

    similarity : ndarray of shape (1 + T,)
        Structural similarity (SSIM) to `image`, on the luminance, of `decoded` and each
        of `restored`; 1 means identical.

    Attributes
    ----------
    axes_ : ndarray of shape (2, 1 + T) of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        Figure containing the axes.

    See Also
    --------
    diffqa_features.DiffusionQAFeatures : Its ``error`` columns use the same noise.

    Notes
    -----
    Backbones keep only the encoder of their VAE in memory. The decoder is loaded from
    disk for one call of :meth:`from_estimator`, runs in float32, and is released.
    Multi-step denoising uses DDIM [2]_.

    References
    ----------
    .. [1] S. Mitra, D. De, S. Rao and R. Soundararajan, "Image and Video Quality
       Assessment using Prompt-Guided Latent Diffusion Models for Cross-Dataset
       Generalization", arXiv 2406.04654, figure 3, which reports LPIPS instead of SSIM.
    .. [2] J. Song, C. Meng and S. Ermon, "Denoising diffusion implicit models", ICLR
       2021.

    Examples
    --------
    >>> from diffqa_features import DiffusionQAFeatures, datasets
    >>> from diffqa_features.inspection import NoiseRoundTripDisplay
    >>> images = datasets.make_procedural_images(1, image_size=64)
    >>> display = NoiseRoundTripDisplay.from_estimator(
    ...     DiffusionQAFeatures(image_size=64), images, timesteps=(95, 950)
    ... )
    >>> bool(display.similarity[1] > display.similarity[2])
    True
    """

    def __init__(
        self, image, decoded, timesteps, noise_levels, noised, restored, similarity
    ):
        self.image = image
        self.decoded = decoded
        self.timesteps = timesteps
        self.noise_levels = noise_levels
        self.noised = noised
        self.restored = restored
        self.similarity = similarity

    def plot(self, ax=None, *, interpolation="antialiased"):
        """Draw the panels.

        Parameters
        ----------
        ax : array-like of matplotlib Axes of shape (2, 1 + T), default=None
            ``None`` creates a single-column figure, 3.5 inches wide, or a full-width
            one for more than three timesteps.
        interpolation : str, default="antialiased"
            Interpolation of the pictures, see matplotlib's ``imshow``; ``"nearest"``
            shows pixels.

        Returns
        -------
        NoiseRoundTripDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the axes have a different shape.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        columns = 1 + len(self.timesteps)
        text = None
        if ax is None:
            text = TEXT
            h, w = self.image.shape[:2]
            width = COLUMN if columns <= 4 else PAGE
            height = 2 * 0.95 * width / columns * h / w + 0.68
            _, ax = plt.subplots(
                2, columns, figsize=(width, height), layout="compressed"
            )
        self.axes_ = np.asarray(ax, dtype=object)
        if self.axes_.shape != (2, columns):
            raise ValueError(
                f"The panels are (2, {columns}). Got axes of shape "
                f"{self.axes_.shape} instead."
            )
        self.figure_ = self.axes_[0, 0].figure
        pictures = [[self.image, *self.noised], [self.decoded, *self.restored]]
        for panel, picture in zip(self.axes_.ravel(), chain(*pictures)):
            panel.imshow(picture, interpolation=interpolation)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        heads = [f"t = {t}" for t in self.timesteps]
        notes = [rf"noise $\sigma$ = {level:.2f}" for level in self.noise_levels]
        below = ["VAE only"] + ["denoised"] * len(heads)
        for panel, head in zip(self.axes_[0], ["picture", *heads]):
            title(panel, head, text)
        for panel, note in zip(self.axes_[0], ["", *notes]):
            panel.set_xlabel(note, fontsize=small(text), labelpad=2)
        for panel, name, value in zip(self.axes_[1], below, self.similarity):
            # Two lines: four columns leave 0.8 inches each.
            panel.set_xlabel(
                f"{name}\nSSIM {value:.2f}", fontsize=small(text), labelpad=2
            )
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        timesteps=(95, 500, 950),
        index=0,
        prompt="",
        n_steps=1,
        ax=None,
        **style,
    ):
        """Noise and denoise one row, and draw it.

        Parameters
        ----------
        estimator : DiffusionQAFeatures or PromptAlignmentMaps
            Provides the backbone, its device and dtype, the view (of several the first,
            of tiles the central one) and the seed; the noise is that of its features.
        X : list, array, Series or DataFrame of N media rows
            See :meth:`diffqa_features.DiffusionQAFeatures.transform`.
        timesteps : sequence of int, default=(95, 500, 950)
            DDPM training steps in [0, 999].
        index : int, default=0
            Row to draw; the others are not opened. For a video, the middle frame is
            used.
        prompt : str, default=""
            Prompt given to the UNet; ``""`` is unconditional. There is no guidance.
        n_steps : int, default=1
            UNet passes for denoising. 1 estimates the clean latent in a single step,
            ``(z_t - sqrt(1 - a) e) / sqrt(a)``, which is the mean of all possible
            originals and so blurred at high noise. More steps use DDIM over that many
            timesteps, evenly spaced from t to 0.
        ax : array-like of matplotlib Axes of shape (2, 1 + T), default=None
            See :meth:`plot`.
        **style : dict
            Further keyword arguments of :meth:`plot`.

        Returns
        -------
        NoiseRoundTripDisplay
            The display, already plotted.

        Raises
        ------
        ValueError
            If a timestep or `n_steps` is out of range, or the picture cannot be read.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        from skimage.metrics import structural_similarity

        from diffqa_features._engine.passes import Passes
        from diffqa_features.inspection._round_trip import round_trip

        one = take_rows(X, [index])
        (row,) = as_rows(one)
        request = estimator._request()
        spec = request.frames
        media = open_media(row, spec.reader)
        chosen = spec.choose(media)
        (frame,) = media.read(chosen[[len(chosen) // 2]])
        # Of tiles, the one in the middle.
        name = view_for(spec.view, *frame.shape[:2], spec.image_size)
        name = "crop" if name == "tiles" else name
        (view,) = view_frames(frame[None], name, spec.image_size, spec.multiple)
        if min(view.shape[:2]) < _SMALLEST:
            raise ValueError(
                f"Pictures of {_SMALLEST} pixels at least are compared. Got a view of "
                f"{view.shape[1]} x {view.shape[0]}; choose a larger image_size."
            )
        passes = Passes(request.backbone, request.device, spec.dtype, request.seed, 1)
        decoded, levels, noised, restored = round_trip(
            passes, view, timesteps, prompt, n_steps
        )
        gray = np.array(LUMINANCE)
        similarity = np.array(
            [
                structural_similarity(view @ gray, picture @ gray, **_SSIM)
                for picture in (decoded, *restored)
            ]
        )
        display = cls(
            view, decoded, tuple(timesteps), levels, noised, restored, similarity
        )
        return display.plot(ax, **style)
