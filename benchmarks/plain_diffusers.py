"""Images in, the default features out: the loop that plain diffusers leads to.

Per image: encode it, then for each timestep one UNet call with both prompts, with
forward hooks on the queries and keys. It shares no code with the library but the
noise, which has to be the same for the numbers to be.
"""

from functools import cache

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler
from diffusers import UNet2DConditionModel as UNet
from transformers import CLIPTextModel, CLIPTokenizer

from diffqa_features._engine.passes import draw_noise

PROMPTS = ["Good photo.", "Bad photo."]
LAMBDA = 0.14


class PlainLoop:
    """The models of one folder in diffusers layout, at work image by image."""

    def __init__(self, folder, dtype="float32", device="cpu"):
        self.dtype, self.device = getattr(torch, dtype), device
        vae_class = self._vae_class(folder)
        self.vae = vae_class.from_pretrained(folder / "vae", torch_dtype=self.dtype)
        self.unet = UNet.from_pretrained(folder / "unet", torch_dtype=self.dtype)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        )
        for model in (self.vae, self.unet, self.text_encoder):
            model.eval().requires_grad_(False).to(device)
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.alphas = scheduler.alphas_cumprod
        self.prediction_type = scheduler.config.prediction_type
        self.noise = cache(lambda t, shape: draw_noise(0, t, shape).to(device))

    @staticmethod
    def _vae_class(folder):
        name = AutoencoderKL.load_config(folder / "vae")["_class_name"]
        return {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}[
            name
        ]

    @torch.inference_mode()
    def features(self, images, timesteps, *, encode_again=False):
        """Features (N, D) of uint8 images; ``encode_again`` encodes per timestep."""
        tokens = self.tokenizer(
            PROMPTS, padding="max_length", truncation=True, return_tensors="pt"
        )
        text = self.text_encoder(tokens.input_ids.to(self.device))[0].to(self.dtype)
        rows = []
        for image in images:
            row = []
            latents = None
            for t in timesteps:
                if latents is None or encode_again:
                    latents = self._encode(image)
                row += self._pass(latents, t, text)
            rows.append(torch.cat(row).cpu().numpy())
        return np.stack(rows).astype(np.float32)

    def _encode(self, image):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        output = self.vae.encode(pixels.to(self.device, self.dtype))
        if hasattr(output, "latents"):
            latents = output.latents
        else:
            latents = output.latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    def _pass(self, latents, t, text):
        queries, aligned, handles = {}, {}, []
        for name, module in self.unet.named_modules():
            if not name.endswith("attn2"):
                continue

            def see_queries(layer, args, output, name=name):
                queries[name] = output

            def see_keys(layer, args, output, name=name, heads=module.heads):
                q = queries.pop(name).float().unflatten(-1, (heads, -1))
                k = output.float().unflatten(-1, (heads, -1))
                logits = torch.einsum("bnhd,blhd->bhnl", q, k) / q.shape[-1] ** 0.5
                pooled = (LAMBDA * logits).logsumexp(2) / LAMBDA
                aligned[name] = pooled.mean((1, 2))

            handles.append(module.to_q.register_forward_hook(see_queries))
            handles.append(module.to_k.register_forward_hook(see_keys))
        alpha = float(self.alphas[t])
        noise = self.noise(t, latents.shape[1:])
        noisy = (alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise).expand(
            len(PROMPTS), -1, -1, -1
        )
        try:
            output = self.unet(
                noisy.to(self.dtype), t, encoder_hidden_states=text
            ).sample
        finally:
            for handle in handles:
                handle.remove()
        output = output.float()
        if self.prediction_type == "v_prediction":
            output = alpha**0.5 * output + (1 - alpha) ** 0.5 * noisy
        square = (output.double() - noise.double()).square()
        total = square.mean((1, 2, 3)).sqrt()
        spectrum = square.mean((2, 3)).log() / 2
        return [*aligned.values(), spectrum.flatten(), total[:1] - total[1:]]
