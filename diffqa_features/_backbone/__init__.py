"""The frozen latent diffusion model behind a name.

In: an alias, hub id or folder; pixels, prompts and noisy latents. Out: latents, a
conditioning, predicted noise, and what named blocks computed on the way. Open
`backbone` first: `Backbone.run` is the one door to the denoiser, `conditioning` what it
is told, `capture` the pass behind it. `hub`, `files` and `info` find and describe a
model, `weights` loads it without running code, `blocks` names its parts, `sampling`
walks from noise back to a picture.
"""
