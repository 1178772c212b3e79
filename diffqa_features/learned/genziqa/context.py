"""Prompts in, a conditioning with learned context vectors out (CoOp)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from diffqa_features._backbone.conditioning import Conditioning

WORDS = "image"
"""Where the context starts, then filled up with end tokens.

Of six tried on the first edition of `tiny` and procedural pictures, the word that costs
untrained scores nothing; a word repeated 16 times costs 0.02 to 0.09 in SRCC.
"""


class PromptContext(nn.Module):
    """Learned context vectors, shared by all prompts.

    Parameters
    ----------
    backbone : Backbone
        Provides the tokenizer and the text encoder; no reference to it is kept.
    prompts : sequence of str
        K prompts.
    count : int
        Number of vectors; 0 leaves the prompts unchanged.
    position : {"front", "end"}
        Position of the prompt's own words: before the context, or after it.
    """

    def __init__(self, backbone, prompts: Sequence[str], count, position):
        super().__init__()
        self._prompts = list(prompts)
        self._position = position
        if not count:
            return
        room = backbone.info.text_length
        self._ids, self._attended, self._at = _make_room(
            backbone, self._prompts, count, position, room
        )
        self.vectors = nn.Parameter(_first_vectors(backbone, count, position))

    def condition(self, backbone) -> Conditioning:
        """The K prompts for `Backbone.run`, with gradient to the vectors."""
        if not hasattr(self, "vectors"):
            return backbone.condition(self._prompts)

        def place(embeddings):
            rows = []
            for row, at in zip(embeddings, self._at, strict=True):
                end = at + len(self.vectors)
                rows.append(torch.cat([row[:at], self.vectors.to(row), row[end:]]))
            return torch.stack(rows)

        with torch.autocast(backbone.device.type, enabled=False):
            return backbone.encode_embeddings(self._ids, self._attended, place)


def _first_vectors(backbone, count, position):
    """Embeddings (count, C) of words, and of what follows the words of any prompt.

    After the prompt, that is the end token, as in its padding. Before it, an end token
    would end it, so the words repeat.
    """
    ids, attended = backbone.tokenize([WORDS])
    used = int(attended[0].sum())
    words, end = ids[0, 1 : used - 1], ids[0, used - 1 : used]
    filling = end if position == "front" else words
    ids = torch.cat([words, filling.repeat(count)])[:count]
    return backbone.embed_tokens(ids).cpu()


def _make_room(backbone, prompts, count, position, length):
    """Token ids with `count` placeholders, the padding mask, and where they start.

    The text encoder is causal, so only the order start, context, words, end matters;
    the placeholder's own embedding is never used.
    """
    ids, attended = backbone.tokenize(prompts)
    made_ids, made_attended, starts = [], [], []
    for prompt, row, mask in zip(prompts, ids, attended, strict=True):
        used = int(mask.sum())
        if used + count > length:
            raise ValueError(
                f"{count} context vectors and the {used} tokens of the prompt "
                f"{prompt!r} (with start and end) are more than the {length} that "
                f"{backbone.info.name!r} reads. Choose n_context of at most "
                f"{max(length - used, 0)}, or a shorter prompt."
            )
        at = 1 if position == "end" else used - 1
        blank = row[:1].expand(count)
        new = torch.cat([row[:at], blank, row[at:]])[:length]
        made_ids.append(new)
        made_attended.append(torch.arange(length) < used + count)
        starts.append(at)
    return torch.stack(made_ids), torch.stack(made_attended), starts
