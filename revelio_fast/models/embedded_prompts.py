"""Conditioning rows for the prompts of a batch: each text is embedded once, kept while it is likely to come again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice

import torch

from revelio_fast.models.families import Conditioning, ModelFamily

CAPACITY = 2048


class EmbeddedPrompts:
    """Embeds prompts when they are first needed, those of the images to come along with them.

    A text is embedded alone: its embedding is the same to the last bit whatever else is embedded. The text encoder is
    let go after each round. With more than `capacity` distinct texts, those not used for longest are forgotten; a
    round looks half of `capacity` images ahead, so that even an endless stream of new captions loads the encoder
    once per so many images.

    Parameters
    ----------
    family : ModelFamily
    capacity : int
        Texts kept, on the model's device: of Stable Diffusion 1.5 in float32 one takes 237 kB.
    """

    def __init__(self, family: ModelFamily, capacity: int = CAPACITY):
        self._family = family
        self._capacity = capacity
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()

    def rows(self, texts: Sequence[str], upcoming: Iterable[str] = ()) -> Conditioning:
        """One row for each of `texts`, on the model's device.

        Parameters
        ----------
        texts : sequence of str
            At least one, at most `capacity` distinct ones.
        upcoming : iterable of str
            The prompts of the images after those, in their order: embedded in the same round, if there is one.
        """
        if any(text not in self._rows for text in texts):
            self._embed(list(dict.fromkeys([*texts, *islice(upcoming, self._capacity // 2)])))
        for text in texts:
            self._rows.move_to_end(text)
        return {name: torch.cat([self._rows[text][name] for text in texts]) for name in self._rows[texts[0]]}

    def _embed(self, wanted: list[str]) -> None:
        for text in wanted[: self._capacity]:
            if text not in self._rows:
                self._rows[text] = self._family.embed([text])
            self._rows.move_to_end(text)
        self._family.release_text()
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
