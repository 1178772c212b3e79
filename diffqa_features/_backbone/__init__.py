"""The frozen latent diffusion model behind a name.

In: an alias, hub id or folder; pixels, prompts and noisy latents. Out: latents, a
conditioning, predicted noise, and the outputs of named blocks. Open `backbone` first:
`Backbone.run` is the only access to the denoiser, `conditioning` its text input,
`capture` the observed pass. `hub`, `files` and `info` find and describe a model,
`weights` loads it without running code, `blocks` names its parts, `sampling` denoises
to a picture.
"""
