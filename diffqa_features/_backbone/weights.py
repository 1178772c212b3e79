"""A described backbone -> its frozen torch modules, tokenizer and noise schedule."""

import contextlib
import json
from collections.abc import Iterator

import torch

from diffqa_features._backbone.info import BackboneInfo
from diffqa_features._utils.devices import picture_layout

# diffusers and transformers take seconds to import, and only loading needs them:
# this is the one place below `learned/` that does.

_SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def read_schedule(info: BackboneInfo) -> torch.Tensor:
    """Return ᾱ_t, float64, whatever sampler the scheduler's configuration names."""
    from diffusers import DDPMScheduler

    path = info.folder / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # Samplers share the training betas and differ in how they step, which we never do.
    betas = {key: config[key] for key in _SCHEDULE_KEYS if key in config}
    return DDPMScheduler(**betas).alphas_cumprod.double()


def load_unet(
    info: BackboneInfo, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Load the UNet; no second copy of its weights is made on the way."""
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    config = UNet2DConditionModel.load_config(
        info.folder / "unet", local_files_only=True
    )
    # from_pretrained without accelerate fills every weight twice, and with a
    # torch_dtype it changes torch's default dtype for all threads while it runs.
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    files = [f for f in info.parts.weights_of("unet")[1] if f.endswith(".safetensors")]
    weights = {}
    for name in files:
        for key, value in load_file(info.folder / name).items():
            is_kernel = value.ndim == 4
            layout = picture_layout(device) if is_kernel else torch.preserve_format
            # Copied: a view of the file would change, or crash, with the file.
            weights[key] = value.to(device, dtype, copy=True, memory_format=layout)
    try:
        unet.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise OSError(
            f"The weights in {info.folder / 'unet'} do not fit its config.json: {error}"
        ) from error
    return _freeze(unet)


def layout_of(weight: torch.Tensor) -> torch.memory_format:
    """How a weight lies in the memory of its device: kernels as pictures do."""
    is_kernel = weight.ndim == 4
    return picture_layout(weight.device) if is_kernel else torch.contiguous_format


def load_vae(info: BackboneInfo) -> torch.nn.Module:
    """Load the encoder side of the VAE in float32 on the CPU."""
    vae = _load_whole_vae(info)
    # Features only ever encode.
    vae.decoder = None
    return vae


def load_decoder(info: BackboneInfo) -> torch.nn.Module:
    """Load the decoder side of the VAE in float32 on the CPU; no backbone keeps it."""
    vae = _load_whole_vae(info)
    vae.encoder = None
    return vae


def _load_whole_vae(info: BackboneInfo) -> torch.nn.Module:
    import diffusers

    folder = info.folder / "vae"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vae, report = getattr(diffusers, config["_class_name"]).from_pretrained(
        folder,
        variant=info.parts.weights_of("vae")[0],
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,
        output_loading_info=True,
    )
    _check_report(report, folder)
    return _freeze(vae)


def load_text(info: BackboneInfo, device: torch.device) -> tuple:
    """Load the tokenizer, and the text encoder in float32."""
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = info.folder / "text_encoder"
    encoder, report = CLIPTextModel.from_pretrained(
        folder,
        variant=info.parts.weights_of("text_encoder")[0],
        use_safetensors=True,
        local_files_only=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    _check_report(report, folder)
    tokenizer = CLIPTokenizer.from_pretrained(
        info.folder / "tokenizer", local_files_only=True
    )
    return tokenizer, _freeze(encoder.to(device))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading messages of diffusers and transformers, then restore them."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def _freeze(module: torch.nn.Module) -> torch.nn.Module:
    return module.eval().requires_grad_(False)


def _check_report(report: dict, folder: object) -> None:
    # Both libraries fill what they do not find with random numbers, and only log it.
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    wrong = [key for key in wrong if "position_ids" not in str(key)]
    if wrong:
        raise OSError(
            f"The weights in {folder} do not fit its config.json: {len(wrong)} are "
            f"missing or of another shape, first {wrong[0]}."
        )
