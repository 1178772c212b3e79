"""A name (alias or file) -> the frozen two-pathway network, loaded once per process."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from diffqa_features._backbone.digests import hash_file
from diffqa_features._utils.files import expand_user

log = logging.getLogger(__name__)

TINY = Path(__file__).parent / "tiny" / "model.safetensors"

ALIAS = "slowfast_r50"
URL = (
    "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
    "SLOWFAST_8x8_R50.pyth"
)
SHA256 = None
"""Of the file behind `URL`. Its publisher gives none, so there is none to compare with;
what is loaded has to have the names and shapes of the network, and is read as data."""

_WANTED = (
    "The 'motion_network' parameter must be 'tiny', 'slowfast_r50' or a file with "
    "weights of SlowFast-R50 8x8."
)
_STEM = "blocks.0.multipathway_blocks.0.conv.weight"
_loading = threading.Lock()


@dataclass(frozen=True)
class WeightsInfo:
    """Description of weights, available before torch loads them."""

    name: str
    path: Path
    kind: str
    """``"tiny"`` or ``"r50"``."""

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the file."""
        return hash_file(self.path)


def find_weights(name: str | os.PathLike, *, download: bool = True) -> WeightsInfo:
    """Find the weights file; for an alias, download it if necessary.

    Raises
    ------
    ValueError
        If the name is neither an alias nor a file with a known extension.
    OSError
        If the file does not exist and cannot be downloaded.
    """
    text = os.fspath(name)
    if text == "tiny":
        return WeightsInfo(text, TINY, "tiny")
    if text == ALIAS:
        path = _cached()
        if not path.is_file() and download:
            _download(path)
        return WeightsInfo(text, path, "r50")
    path, wanted = Path(expand_user(text)), _WANTED
    if not path.is_file():
        hint = f"{text!r} was not found (looked for {path.absolute()})."
        if not (path.suffix or path.name != text):  # a word, not a path
            raise ValueError(f"{wanted} Got {text!r} instead.")
        raise FileNotFoundError(f"{wanted} {hint}")
    if path.suffix == ".safetensors":
        return WeightsInfo(text, path, _kind_of(path))
    if path.suffix in (".pyth", ".pth", ".pt"):
        return WeightsInfo(text, path, "r50")
    raise ValueError(
        f"{wanted} {text!r} ends in none of .safetensors, .pyth, .pth and .pt."
    )


def load_network(info: WeightsInfo, device, dtype):
    """Load the network on a torch device, frozen; one object per file and process."""
    with _loading:  # two threads must not read the same file twice
        return _load(info, info.identity, device, dtype)


@lru_cache(maxsize=2)
def _load(info, identity, device, dtype):
    import torch

    from diffqa_features._backbone.tensors import check_finite
    from diffqa_features.motion._slowfast import R50, TINY, SlowFast

    weights = _read(info.path)
    # A caller in inference mode must not leave weights that autograd refuses later.
    with torch.inference_mode(False):
        with torch.device("meta"):
            network = SlowFast(TINY if info.kind == "tiny" else R50)
        _check_names(info.path, weights, network.state_dict())
        for key, value in weights.items():
            check_finite(value, info.path, key)
        weights = {
            key: value.float() if value.is_floating_point() else value
            for key, value in weights.items()
        }
        network.load_state_dict(weights, strict=True, assign=True)
    network.eval().requires_grad_(False)
    return network.to(device, dtype)


def _read(path: Path) -> dict:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            # Copied: a view of the file would change, or crash, with the file.
            return {key: value.clone() for key, value in load_file(path).items()}
        except (SafetensorError, ValueError) as error:
            raise OSError(
                f"{path} is not a safetensors file, or is damaged: {error}. Copy or "
                "download it again."
            ) from error
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise many types on damage
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"{path} cannot be read as weights alone: {first} It may be damaged, or "
            "hold code beside the weights, which is never run here; save its state "
            "dict with torch.save or as safetensors."
        ) from error
    if isinstance(content, dict):
        content = content.get("model_state", content.get("state_dict", content))
    if not isinstance(content, dict):
        raise OSError(f"{path} holds a {type(content).__name__}, not a state dict.")
    return content


def _check_names(path, weights, expected) -> None:
    missing = [key for key in expected if key not in weights]
    unknown = [key for key in weights if key not in expected]
    if missing or unknown:
        some = missing or unknown
        raise OSError(
            f"{path} is not a checkpoint of this network: {len(missing)} of "
            f"{len(expected)} names are missing and {len(unknown)} are unknown, first "
            f"{some[0]!r}. Needed is SlowFast-R50 8x8 as PyTorchVideo publishes it: "
            f"{URL}."
        )
    for key, value in expected.items():
        if type(weights[key]) is not type(value):
            raise OSError(f"{path}: {key!r} is a {type(weights[key]).__name__}.")
        if weights[key].is_floating_point() != value.is_floating_point():
            raise OSError(
                f"{path}: {key!r} is of type {weights[key].dtype}, and must be like "
                f"{value.dtype}."
            )
        shape = tuple(weights[key].shape)
        if shape != tuple(value.shape):
            raise OSError(
                f"{path} is not a checkpoint of this network: {key!r} has the shape "
                f"{shape} and must have {tuple(value.shape)}."
            )


def _kind_of(path: Path) -> str:
    """Identify the network from a safetensors header, without reading weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shape = file.get_slice(_STEM).get_shape() if _STEM in file.keys() else None
    except (SafetensorError, OSError, ValueError) as error:
        raise OSError(
            f"{path} is not a safetensors file: {error}. Copy or download it again."
        ) from error
    return "tiny" if shape and shape[0] == 16 else "r50"


def _cached() -> Path:
    """Location of the file in torch.hub's cache, where PyTorchVideo also stores it."""
    home = os.environ.get("TORCH_HOME")
    if home is None:
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        home = str(Path(cache) / "torch")
    return Path(expand_user(home)) / "hub" / "checkpoints" / URL.rpartition("/")[2]


def _download(path: Path) -> None:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        if offline:
            raise OSError("HF_HUB_OFFLINE is set")
        import torch

        log.info("downloading %s to %s", URL, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), progress=False)
        log.info("SHA-256 of %s: %s", path, hash_file(path))
    except OSError as error:  # URLError and its kin among them
        raise OSError(
            f"The weights {ALIAS!r} are not on this machine ({path}), and they could "
            f"not be downloaded: {error}. Ways to get them:\n"
            f"  - on a machine with network: curl -O {URL}, then copy the file to "
            f"{path} (TORCH_HOME names another folder), or pass the path instead\n"
            "  - unset HF_HUB_OFFLINE where it is set, to download them here\n"
            "  - motion_network='tiny', which ships with this package"
        ) from error
