"""`diffqa info`: a backbone's or a store's name in, its description printed."""

import platform
from importlib.metadata import version
from pathlib import Path

from diffqa_features import FeatureStore, __version__
from diffqa_features._backbone.hub import with_vae
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._utils.files import expand_user

_PACKAGES = (
    "numpy", "scikit-learn", "torch", "diffusers", "transformers", "Pillow",
)  # fmt: skip
_TINY = (
    "ships with this package: a small latent diffusion model, trained on procedural "
    "pictures\nand photographs, that runs offline on a CPU. It is no substitute for "
    "Stable Diffusion."
)


def run(args):
    """Run the command."""
    if args.memory is not None:
        _show_store(args.memory)
        return 0
    if args.name and args.backbone and args.name != args.backbone:
        raise ValueError(f"Two backbones: {args.name!r} and {args.backbone!r}.")
    name = args.name or args.backbone or "tiny"
    info = describe_backbone(with_vae(name, args.vae))
    _show_machine()
    print()
    _show_backbone(info)
    return 0


def _show_store(folder):
    if not Path(expand_user(folder)).is_dir():
        raise ValueError(f"There is no folder {folder!r}.")
    with FeatureStore(folder) as store:
        info = store.info()
    _show({"store": info.path, "entries": info.entries, "size": _bytes(info.size)})


def _show_machine():
    import torch

    from diffqa_features._utils.processor import fast_precision

    fast, why = fast_precision()
    fast = str(fast).removeprefix("torch.")
    devices = [f"cpu ({torch.get_num_threads()} threads, float32; auto: {fast}, {why})"]
    devices += [
        f"cuda:{i} ({torch.cuda.get_device_name(i)}, float16)"
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        devices.append("mps (float32)")
    versions = [f"{name} {version(name)}" for name in _PACKAGES]
    _show(
        {
            "diffqa-features": __version__,
            "python": platform.python_version(),
            "packages": ", ".join(versions),
            # The last one is an accelerator where there is one.
            "devices": ", ".join(devices) + f"; by default {devices[-1].split()[0]}",
        }
    )


def _show_backbone(info):
    weights = sum(
        info.path(name).stat().st_size
        for _, _, names in info.parts.weights
        for name in names
    )
    _show(
        {
            "backbone": info.name,
            "folder": info.folder,
            "VAE": f"{info.vae_class} in {info.vae_folder}",
            "weights": _bytes(weights),
            "identity": info.identity,
            "commit": info.commit or "none (not from the hub)",
            "native size": f"{info.image_size} x {info.image_size} pixels; "
            f"sides must be multiples of {info.multiple}",
            "latents": f"{info.latent_channels} channels, one cell per "
            f"{info.latent_factor} x {info.latent_factor} pixels",
            "predicts": info.prediction_type,
            "prompts": f"up to {info.text_length} tokens",
        }
    )
    if info.name == "tiny":
        print(f"\ntiny {_TINY}")
    print(f"\n{'block':<12}{'channels':>8}{'heads':>7}")
    for block in info.blocks:
        print(f"{block.name:<12}{block.channels:>8}{block.heads:>7}")
    stages = " ".join(f"{stage.name} ({stage.channels})" for stage in info.stages)
    print(f"\nstages (channels): {stages}")


def _show(facts):
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name:<{width}}{value}")


def _bytes(size):
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
