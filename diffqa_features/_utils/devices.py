"""A device and a precision by name, and the memory layout of pictures on a device."""

import torch

from diffqa_features._utils.processor import fast_precision

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def parse_device(device: str | torch.device | None) -> torch.device:
    """As `pick_device`, but a device of that name need not be here."""
    if device is None:
        has_mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            "The 'device' parameter must be None or a torch device such as 'cpu', "
            f"'cuda', 'cuda:1' or 'mps'. Got {device!r} instead."
        ) from error


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None tries CUDA, then MPS, then the CPU."""
    device = parse_device(device)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"There is no device {device}; CUDA devices: {count}.")
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"There is no device {device} on this machine.")
    if device.type not in ("cpu", "mps"):
        try:
            torch.zeros(1, device=device)
        # Of devices that it was not built for, torch raises AssertionError and others.
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"There is no device {device} here: {reason}") from error
    return torch.device("cpu") if device.type == "cpu" else device


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision of that name; None means float16 on CUDA and float32 elsewhere.

    "auto" differs from None on a CPU, where it is the faster of float32 and bfloat16.
    """
    if dtype is None or dtype == "auto":
        if dtype == "auto" and device.type == "cpu":
            return fast_precision()[0]
        return torch.float16 if device.type == "cuda" else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(
            "The 'dtype' parameter must be None or a str among {'auto', 'bfloat16', "
            f"'float16', 'float32'}}. Got {dtype!r} instead."
        )
    return _DTYPES[name]


def picture_layout(device: torch.device) -> torch.memory_format:
    """Channels last for kernels on a CPU: convolutions run about a fifth faster."""
    on_cpu = device.type == "cpu"
    return torch.channels_last if on_cpu else torch.preserve_format
