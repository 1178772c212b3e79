"""Files of the authors' released code -> tensors by name; no code in them is run."""

import zipfile

import numpy as np
import torch
from safetensors.torch import load_file


def find_file(folder, names):
    """The only file in or below a folder that has one of these names."""
    found = sorted(path for name in names for path in folder.rglob(name))
    if len(found) != 1:
        wanted = " or ".join(names)
        listed = ", ".join(map(str, found)) or "none"
        raise FileNotFoundError(
            f"'{folder}' and its sub-folders must hold one {wanted}. Found: {listed}."
        )
    return found[0]


def read_tensors(path):
    """Tensors of a file by name; no code in it is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped: a whole model is read piece by piece, and not what nobody takes.
        mapped = zipfile.is_zipfile(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        odd = [k for k, v in dict(found).items() if not isinstance(v, torch.Tensor)]
        if odd:
            raise ValueError(f"{odd[0]!r} is a {type(found[odd[0]]).__name__}")
        return found
    except Exception as error:  # torch and zipfile raise many types on damage
        raise ValueError(
            f"{path} is not a file of tensors only: {error}. Nothing else is loaded, "
            "since it could run code."
        ) from error


def as_array(tensor, path):
    """A float32 copy: a memory-mapped tensor would change, or crash, with its file."""
    if not tensor.is_floating_point():
        raise ValueError(
            f"'{path}' holds weights of type {tensor.dtype}, and they must be floats. "
            "Dequantize and save them first."
        )
    array = np.array(tensor.float().numpy(), np.float32, order="C")
    if not np.isfinite(array).all():
        raise ValueError(
            f"'{path}' holds weights that are NaN or infinity. It is damaged; copy or "
            "download it again."
        )
    return array
