"""The frozen latent diffusion model behind a name.

In: an alias, hub id or folder; pixels, prompts and noisy latents. Out: latents, text
states, predicted noise, and what named blocks computed on the way. Open `backbone`
first; `hub`, `files` and `info` find and describe a model, `weights` loads it without
running code, `blocks` names its parts, `capture` observes one pass.
"""
