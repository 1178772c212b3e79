"""A backbone's name -> the frozen latent diffusion model, loaded once per process."""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from diffqa_features._backbone.capture import Adapter, Tap, run_unet
from diffqa_features._backbone.compiled import CompiledPasses
from diffqa_features._backbone.conditioning import Conditioning
from diffqa_features._backbone.info import BackboneInfo, describe_backbone
from diffqa_features._backbone.packing import pack_weights
from diffqa_features._backbone.weights import (
    latent_scale,
    load_texts,
    load_unet,
    load_vae,
    quiet,
    read_schedule,
)
from diffqa_features._utils.allocator import keep_memory
from diffqa_features._utils.devices import pick_device, pick_dtype, picture_layout

logger = logging.getLogger(__name__)

_MAX_LOADED = 4
_PROMPTS_PER_BATCH = 64
_CUT_NAMED = 3  # prompts that are too long, each in a line of the log

_loaded: OrderedDict[tuple, "Backbone"] = OrderedDict()
_loaded_lock = threading.Lock()  # held for dictionary look-ups only
_loading_lock = threading.RLock()  # held while weights are read


def load_backbone(
    name: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> "Backbone":
    """Load a frozen backbone, or return the one this process already has.

    Parameters
    ----------
    name : str or path
        Alias, hub id or folder in diffusers layout.
    device : str, torch.device or None, default=None
        None tries CUDA, then MPS, then the CPU.
    dtype : str, torch.dtype or None, default=None
        "float32", "float16" or "bfloat16". None and "auto" mean float16 on CUDA and
        float32 elsewhere, except that "auto" is bfloat16 on a CPU with AMX.

    Returns
    -------
    Backbone
        One object per (identity, device, dtype), shared by all threads. The four most
        recently used are kept.

    Raises
    ------
    ValueError
        If the name, device or dtype is invalid, or the model is not supported.
    OSError
        If files are missing or their weights do not match the configuration.
    """
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    info = describe_backbone(name)
    key = (info.identity, device, dtype)
    backbone = _find_loaded(key, info)
    if backbone is not None:
        return backbone
    with _loading_lock:
        backbone = _find_loaded(key, info)
        if backbone is None:
            backbone = Backbone(info, device, dtype)
            with _loaded_lock:
                _loaded[key] = backbone
                while len(_loaded) > _MAX_LOADED:
                    _loaded.popitem(last=False)
    return backbone


class Backbone:
    """A frozen latent diffusion model: VAE encoder, text encoder, UNet, noise schedule.

    Created by :func:`load_backbone`. A pickle or deep copy holds only the name and
    restores the process-wide object.

    Attributes
    ----------
    info : BackboneInfo
    device : torch.device
    dtype : torch.dtype
        Precision of the UNet and the VAE. The text encoder always runs in float32: it
        runs once per prompt, and its states affect every row.
    lock : threading.RLock
        Held inside :meth:`run`. Also hold it to call or copy modules of the UNet, which
        may carry the hooks of another thread's pass.
    unet : UNet2DConditionModel
        In eval mode, with frozen parameters.
    alphas_cumprod : tensor of shape (n_timesteps,), float64, on the CPU
        The cumulative product of the noise schedule, in (0, 1).

    Notes
    -----
    A VAE whose configuration sets ``force_upcast`` runs in float32 if `dtype` is
    float16. Any other float16 VAE is monitored: rows with non-finite latents are
    re-encoded by a float32 copy, which is loaded at the first such row and kept. Other
    rows keep their values, so no row depends on others.
    """

    def __init__(self, info: BackboneInfo, device: torch.device, dtype: torch.dtype):
        self.info = info
        self.device = device
        self.dtype = dtype
        self.lock = threading.RLock()
        self._vae_lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._text_lock = threading.Lock()
        # A caller in inference mode must not leave weights that autograd refuses later.
        with torch.inference_mode(False), quiet():
            self.alphas_cumprod = read_schedule(info)
            self.unet = load_unet(info, device, dtype)
            vae_dtype = torch.float32 if _wants_upcast(info, dtype) else dtype
            self._vae = _place_vae(load_vae(info), device, vae_dtype)
            self._vae_float32 = None
            self._compiled = None
            if device.type == "cpu":
                keep_memory()
                packed = dtype == torch.bfloat16 and pack_weights(self.unet)
                # Compiled code reads the plain weights: packing would be lost.
                if os.environ.get("DIFFQA_COMPILE", "0") != "0" and not packed:
                    self._compiled = CompiledPasses(self.unet)
            # The second, if there is one, adds to the states of the first.
            self._texts = load_texts(info, device)
            self._tokenizer, self._text_encoder = self._texts[0]

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"<Backbone {self.info.name!r} on {self.device} in {dtype}>"

    def __reduce__(self) -> tuple:
        dtype = str(self.dtype).removeprefix("torch.")
        return load_backbone, (self.info.name, str(self.device), dtype)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (N, 3, H, W) in [-1, 1] into scaled latents (N, C, h, w).

        The latents are the posterior mode times the VAE's scaling factor, float32 on
        the backbone's device, without gradient.
        """
        factor = self.info.latent_factor
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                "pixels must be of shape (N, 3, H, W). "
                f"Got {tuple(pixels.shape)} instead."
            )
        if pixels.shape[2] % factor or pixels.shape[3] % factor:
            raise ValueError(
                f"The sides of pixels must divide by {factor}. Got "
                f"{pixels.shape[2]} x {pixels.shape[3]} instead."
            )
        with torch.inference_mode():
            latents = _encode(self._vae, pixels)
            if self._vae.dtype == torch.float16:
                bad = ~latents.isfinite().flatten(1).all(1)
                if bad.any():
                    logger.info("%d rows overflow float16; in float32.", int(bad.sum()))
                    vae = self._get_float32_vae()
                    latents[bad] = _encode(vae, pixels[bad.to(pixels.device)])
            if not latents.isfinite().all():
                raise ValueError(
                    f"The VAE of {self.info.name!r} gives latents that are not finite. "
                    "Look for NaN in the pixels, or damaged weights."
                )
        # Cloned outside inference mode: autograd refuses inference tensors, and learned
        # adapters put gradients through the UNet that reads these latents.
        return latents.clone()

    def run(
        self,
        noisy: torch.Tensor,
        t: int | torch.Tensor,
        conditioning: Conditioning,
        taps: Sequence[Tap] = (),
        *,
        adapters: Mapping[str, Adapter] | None = None,
        control: tuple[Sequence[torch.Tensor], torch.Tensor] | None = None,
        whole: bool = True,
        unet: torch.nn.Module | None = None,
        compiled_rows: int | None = None,
    ) -> torch.Tensor | None:
        """Run the denoiser once on N noisy latents.

        Parameters
        ----------
        noisy : tensor of shape (N, C, h, w)
            Converted to the backbone's dtype.
        t : int or int tensor of shape (N,)
            Timestep of all rows, or one per row.
        conditioning : Conditioning
            Result of :meth:`condition`: N rows, or one row for all.
        taps : sequence of Tap
            Modules to observe.
        adapters : mapping of str to callable or None
            Functions that change the output of named modules in this call.
        control : (sequence of tensor, tensor) or None
            Tensors added to each skip and to the middle, as by a ControlNet.
        whole : bool, default=True
            False stops the pass as soon as every tap has seen its tensor.
        unet : module or None
            A trained copy to run instead of the backbone's own.
        compiled_rows : int or None
            N of a full pass, if this one may be compiled (`DIFFQA_COMPILE`): without
            gradients, adapters, control or a copy.

        Returns
        -------
        tensor of shape (N, C, h, w) or None
            The UNet's output (see :meth:`to_noise`); None if the pass stopped early. No
            hooks are left in the modules, even after an exception.
        """
        conditioning = conditioning.to(self.dtype).expand(len(noisy))
        if conditioning.pooled is not None:  # such a model is told the size, too
            factor = self.info.latent_factor
            height, width = (factor * side for side in noisy.shape[2:])
            conditioning = conditioning.for_size(height, width)
        noisy = noisy.to(self.dtype)
        with self.lock:
            if compiled_rows is not None and self._compiled is not None:
                done, output = self._compiled.run(
                    noisy, t, conditioning, taps, rows=compiled_rows, whole=whole
                )
                if done:
                    return output
            return run_unet(
                self.unet if unet is None else unet,
                noisy,
                t,
                conditioning,
                taps,
                whole=whole,
                adapters=adapters,
                control=control,
            )

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """Encode K prompts for :meth:`run`: K rows on the backbone's device.

        States are padded to the tokenizer's length, as in the UNet's training, and have
        the backbone's dtype.

        Notes
        -----
        A prompt longer than L tokens is truncated, with a logged warning.
        """
        if isinstance(prompts, str) or not all(isinstance(p, str) for p in prompts):
            raise TypeError(f"prompts must be a list of str. Got {prompts!r} instead.")
        if not len(prompts):
            raise ValueError("prompts must hold at least one prompt.")
        prompts = list(prompts)
        ids, attended = self.tokenize(prompts)
        content = _mark_content(ids, attended, self._tokenizer)
        told = []
        with torch.inference_mode():
            for i in range(0, len(prompts), _PROMPTS_PER_BATCH):
                rows = slice(i, i + _PROMPTS_PER_BATCH)
                first = self._encode_text(0, ids[rows], attended[rows])
                if not self.info.two_texts:
                    told.append(Conditioning(first.last_hidden_state))
                    continue
                second = self._encode_text(1, *self._pad(1, prompts[rows]))
                # As Stable Diffusion XL was trained: the states before the last layer.
                states = [each.hidden_states[-2] for each in (first, second)]
                told.append(
                    Conditioning(torch.cat(states, -1), pooled=second.text_embeds)
                )
            whole = Conditioning.stack(told).to(self.dtype)
        return replace(whole.clone(), content=content)

    def _encode_text(self, which, ids, attended):
        encoder = self._texts[which][1]
        masked = getattr(encoder.config, "use_attention_mask", False)
        with self._text_lock:
            return encoder(
                ids.to(self.device),
                attention_mask=attended.long().to(self.device) if masked else None,
                output_hidden_states=self.info.two_texts,
            )

    def encode_embeddings(
        self,
        ids: torch.Tensor,
        attended: torch.Tensor,
        edit: Callable[[torch.Tensor], torch.Tensor],
    ) -> Conditioning:
        """Encode tokens (K, L) after `edit` has replaced their embeddings (K, L, C).

        Gradients flow to what `edit` inserts. `attended` is true at start, words and
        end. Returns K rows in float32 on the backbone's device, without a content mask.
        Only for models with one text encoder (`BackboneInfo.two_texts`).
        """
        self.info.require_one_text("Editing embeddings")
        table = self._text_encoder.get_input_embeddings()
        with self._text_lock:
            handle = table.register_forward_hook(lambda module, args, out: edit(out))
            try:
                output = self._text_encoder(
                    ids.to(self.device),
                    attention_mask=attended.long().to(self.device),
                )
            finally:
                handle.remove()
        return Conditioning(output.last_hidden_state)

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (..., C) of token ids, float32, before positions are added."""
        table = self._text_encoder.get_input_embeddings().weight
        return table.detach()[ids.to(table.device)].float().clone()

    def add_noise(
        self, latents: torch.Tensor, t: int | torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return z_t = √ᾱ_t z_0 + √(1 - ᾱ_t) ε, in float32.

        `t` is one timestep, or an int64 tensor of shape (N,) with one per row.
        """
        signal, sigma = self.scales(t)
        noise = noise.to(latents.device, torch.float32)
        return signal * latents.float() + sigma * noise

    def to_noise(
        self, output: torch.Tensor, noisy: torch.Tensor, t: int | torch.Tensor
    ) -> torch.Tensor:
        """Convert the UNet's output for z_t to predicted noise, in float32."""
        signal, sigma = self.scales(t)
        output, noisy = output.float(), noisy.float()
        if self.info.prediction_type == "epsilon":
            return output
        if self.info.prediction_type == "v_prediction":
            return signal * output + sigma * noisy
        return (noisy - signal * output) / sigma

    def to_clean(
        self, output: torch.Tensor, noisy: torch.Tensor, t: int | torch.Tensor
    ) -> torch.Tensor:
        """Convert the UNet's output for z_t to an estimate of z_0, in float32."""
        signal, sigma = self.scales(t)
        output, noisy = output.float(), noisy.float()
        if self.info.prediction_type == "sample":
            return output
        if self.info.prediction_type == "v_prediction":
            # Not by way of the noise: ᾱ may be 0 at the last step.
            return signal * noisy - sigma * output
        return (noisy - sigma * output) / signal

    def scales(self, t: int | torch.Tensor) -> tuple:
        """√ᾱ_t and √(1 - ᾱ_t): two floats, or for N timesteps tensors (N, 1, 1, 1)."""
        many = isinstance(t, torch.Tensor) and t.ndim > 0
        lowest, highest = (int(t.min()), int(t.max())) if many else (t, t)
        if not (0 <= lowest and highest < len(self.alphas_cumprod)):
            raise ValueError(
                f"The timestep must be in [0, {len(self.alphas_cumprod) - 1}]. "
                f"Got {t} instead."
            )
        if many:
            alphas = self.alphas_cumprod[t.cpu()].view(-1, 1, 1, 1)
            return (
                alphas.sqrt().to(self.device, torch.float32),
                (1 - alphas).sqrt().to(self.device, torch.float32),
            )
        alpha = float(self.alphas_cumprod[t])
        return alpha**0.5, (1 - alpha) ** 0.5

    def _get_float32_vae(self) -> torch.nn.Module:
        # From disk: weights beyond float16 are infinite in the copy in memory.
        with self._vae_lock:
            if self._vae_float32 is None:
                with _loading_lock, torch.inference_mode(False), quiet():
                    vae = load_vae(self.info)
                self._vae_float32 = _place_vae(vae, self.device, torch.float32)
            return self._vae_float32

    def tokenize(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (K, L) padded to L, and a mask of the non-padding tokens."""
        length = self.info.text_length
        with self._tokenizer_lock:
            whole = self._tokenizer(prompts, verbose=False)["input_ids"]
        cut = [(p, len(ids)) for p, ids in zip(prompts, whole) if len(ids) > length]
        for prompt, count in cut[:_CUT_NAMED]:
            logger.warning(
                "The prompt %r has %d tokens; only the first %d are used.",
                prompt,
                count,
                length,
            )
        if len(cut) > _CUT_NAMED:
            logger.warning("So it is with %d more prompts.", len(cut) - _CUT_NAMED)
        return self._pad(0, prompts)

    def _pad(self, which, prompts):
        # Rust tokenizers keep their truncation setting in themselves and refuse a
        # second thread ("Already borrowed").
        with self._tokenizer_lock:
            batch = self._texts[which][0](
                prompts,
                padding="max_length",
                max_length=self.info.text_length,
                truncation=True,
                return_tensors="pt",
            )
        return batch["input_ids"], batch["attention_mask"].bool()


def _find_loaded(key: tuple, info: BackboneInfo) -> Backbone | None:
    with _loaded_lock:
        backbone = _loaded.get(key)
        if backbone is not None:
            _loaded.move_to_end(key)
            # What is read later (decoder, float32 VAE) and what a pickle names is found
            # where the caller says: the first of equal folders may be gone or changed.
            backbone.info = info
        return backbone


def _forget_after_fork() -> None:
    # A child may inherit a lock that a thread of its parent holds, and CUDA memory that
    # it cannot use. It starts empty and loads for itself.
    global _loaded, _loaded_lock, _loading_lock
    _loaded = OrderedDict()
    _loaded_lock = threading.Lock()
    _loading_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def _wants_upcast(info: BackboneInfo, dtype: torch.dtype) -> bool:
    # What the file says: diffusers fills in True where it says nothing, as in Stable
    # Diffusion 1 and 2, whose VAE does well in float16.
    says = info.settings["vae"].get("force_upcast", False)
    return says and dtype == torch.float16


def _place_vae(
    vae: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    return vae.to(device, dtype, memory_format=picture_layout(device))


def _encode(vae: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    weight = next(vae.parameters())
    layout = picture_layout(weight.device)
    output = vae.encode(pixels.to(weight.device, weight.dtype, memory_format=layout))
    is_kl = hasattr(output, "latent_dist")
    latents = output.latent_dist.mode() if is_kl else output.latents
    shift, scale = latent_scale(vae.config, latents.device)
    return ((latents.float() - shift) * scale).contiguous()


def _mark_content(
    ids: torch.Tensor, attended: torch.Tensor, tokenizer: object
) -> torch.Tensor:
    # By position, not by id: Stable Diffusion 2 pads with "!", which is also a word.
    content = attended.clone()
    for row_ids, row in zip(ids, content, strict=True):
        used = int(row.sum())
        if used and row_ids[0] == tokenizer.bos_token_id:
            row[0] = False
        if used > 1 and row_ids[used - 1] == tokenizer.eos_token_id:
            row[used - 1] = False
    return content
