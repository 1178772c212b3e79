"""Views and a fitted student in, scores and maps out."""

import weakref

import numpy as np
import torch

from diffqa_features._media.views import to_pixels
from diffqa_features._utils.batching import in_halves
from diffqa_features.learned._training import precision
from diffqa_features.learned.student.network import fold_normalisation

# Pictures per pass. With more than a few per core, the planes of the first layers leave
# the cache: on one core, 16 take a fifth longer each than 4.
_ON_CPU, _ON_GPU = 4, 64

# Student -> what its network was made of, and the network. On the side, since pickles
# hold arrays; weak, since nobody says when a student is done.
_ready = weakref.WeakKeyDictionary()


def ready_network(student, device):
    """The fitted network, ready to predict; built once per fit and device."""
    known = _ready.get(student)
    if known is None or known[0] is not student.weights_ or known[1] != device:
        network = student._go_on(student.map_shape_)
        network = fold_normalisation(network.eval().requires_grad_(False))
        network = network.to(device, memory_format=torch.channels_last)
        known = _ready[student] = (student.weights_, device, network)
    return known[2]


def score_views(network, views, device, dtype, maps=False):
    """Scores (N,) and, if requested, maps of views; None if there are no views."""

    @torch.inference_mode()
    def run(chunk):
        with precision(device, dtype):
            scores, seen = network(to_pixels(np.stack(chunk), "unit").to(device))
        seen = seen.float().cpu().numpy() if maps else None
        return scores.double().cpu().numpy(), seen

    size = _ON_GPU
    if device.type == "cpu":
        size = max(_ON_CPU, 2 * torch.get_num_threads())
    parts, chunk = [], []
    for view in views:
        chunk.append(view)
        if len(chunk) == size:
            parts += in_halves(run, chunk, size)[0]
            chunk = []
    if chunk:
        parts += in_halves(run, chunk, size)[0]
    if not parts:
        return None
    scores, seen = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(seen) if maps else None
