"""A description's text as the decoder's condition, each text by itself: nobody is padded to a neighbour's length.

audiocraft pads the texts of a batch with zeros and no mask, so that a request's music depends on who else is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from audiocraft.modules.conditioners import ConditioningProvider


class TextConditioner:
    """audiocraft's own T5 conditioner, asked for one text at a time."""

    def __init__(self, provider: ConditioningProvider) -> None:
        self._conditioner: Any = provider.conditioners["description"]

    @torch.no_grad()
    def encode(self, description: str) -> torch.Tensor:
        """[1, text, D]. The empty text is the null condition and is not to be asked for."""
        assert description, "the null condition needs no text"
        embedded, _ = self._conditioner(self._conditioner.tokenize([description]))
        found: torch.Tensor = embedded
        return found
