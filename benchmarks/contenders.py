"""Who is measured: audiocraft, transformers and our engine, all of musicgen-small's shape with random weights.

Each answers two questions: how long a prefill of so many positions takes, and how long each of some steps after it.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Protocol

import torch

from gary.config import EngineConfig
from gary.engine.core import TokenRequest
from gary.engine.linear import Precision
from gary.engine.parts import Parts, make_parts
from gary.engine.request import GenerationParams
from tests.parity.models import SMALL, reshaped_model

DESCRIPTION = "drums and bass"
CODEBOOKS, CARD = 4, 2048
GUIDED = GenerationParams(top_k=250, cfg_coef=3.0)


class Contender(Protocol):
    """One guided request at a time."""

    @property
    def name(self) -> str: ...

    def prefill_s(self, positions: int) -> float:
        """Feeds so many positions to an empty cache; seconds."""
        ...

    def steps_s(self, steps: int) -> list[float]:
        """Seconds of each of the next steps, drawing included."""
        ...


def random_sequence(positions: int) -> torch.Tensor:
    """[1, K, S]"""
    return torch.randint(0, CARD, (1, CODEBOOKS, positions), generator=torch.Generator().manual_seed(0))


class Audiocraft:
    """audiocraft's own streaming forward and sampler, as its generate calls them."""

    name = "audiocraft"

    def __init__(self, batch: int = 1) -> None:
        self._batch = batch
        self._model = reshaped_model(**SMALL)
        attributes, _ = self._model._prepare_tokens_and_attributes([DESCRIPTION] * batch, None)
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout

        null = ClassifierFreeGuidanceDropout(p=1.0)(attributes)
        provider = self._model.lm.condition_provider
        with torch.no_grad():
            self._conditions = provider(provider.tokenize(attributes + null))
        self._streaming: Any = None

    def prefill_s(self, positions: int) -> float:
        if self._streaming is not None:
            self._streaming.__exit__(None, None, None)
        self._streaming = self._model.lm.streaming()
        self._streaming.__enter__()
        return self._timed(random_sequence(positions))

    def steps_s(self, steps: int) -> list[float]:
        return [self._timed(random_sequence(1)) for _ in range(steps)]

    def _timed(self, sequence: torch.Tensor) -> float:
        sequence = sequence.repeat(self._batch, 1, 1)
        began_s = perf_counter()
        with torch.no_grad():
            self._model.lm._sample_next_token(
                sequence, self._conditions, {}, use_sampling=True, temp=1.0, top_k=250, cfg_coef=3.0
            )
        return perf_counter() - began_s


class Transformers:
    """transformers' MusicgenForCausalLM with its own cache, guided by a batch of two, top-k by torch."""

    name = "transformers"

    def __init__(self) -> None:
        from transformers import MusicgenForCausalLM
        from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

        torch.manual_seed(0)
        config = MusicgenDecoderConfig(
            vocab_size=CARD,
            hidden_size=SMALL["dim"],
            num_hidden_layers=SMALL["num_layers"],
            num_attention_heads=SMALL["num_heads"],
            ffn_dim=4 * SMALL["dim"],
            num_codebooks=CODEBOOKS,
        )
        self._model = MusicgenForCausalLM(config).eval()
        text = torch.randn(1, 8, SMALL["dim"])
        self._text = torch.cat([text, torch.zeros_like(text)])  # [2, text, D]
        self._cache: Any = None

    def prefill_s(self, positions: int) -> float:
        self._cache = None
        return self._timed(random_sequence(positions))

    def steps_s(self, steps: int) -> list[float]:
        return [self._timed(random_sequence(1)) for _ in range(steps)]

    def _timed(self, sequence: torch.Tensor) -> float:
        tokens = sequence.repeat(2, 1, 1).flatten(0, 1)  # [2 K, S]
        began_s = perf_counter()
        with torch.no_grad():
            out = self._model(
                input_ids=tokens, encoder_hidden_states=self._text, past_key_values=self._cache, use_cache=True
            )
            self._cache = out.past_key_values
            cond, uncond = out.logits[:, -1].view(2, CODEBOOKS, CARD)
            logits = uncond + (cond - uncond) * 3.0
            values, _ = logits.topk(250)
            probs = logits.masked_fill(logits < values[:, -1:], float("-inf")).softmax(-1)
            torch.multinomial(probs, 1)
        return perf_counter() - began_s


class Ours:
    """Our engine's core, one request in it."""

    def __init__(self, precision: Precision, threads: int, slots: int = 1) -> None:
        self.precision: Precision = precision
        cache_bytes = (slots + 1) * 700_000_000  # a guided request of this shape takes 592 MB
        config = EngineConfig(device="cpu", precision=precision, threads=threads, slots=slots, cache_bytes=cache_bytes)
        self.parts: Parts = make_parts(reshaped_model(**SMALL), "cpu", config)
        with torch.no_grad():
            self.cross = self.parts.decoder.cross_cache(self.parts.text.encode(DESCRIPTION))
        self._key = 0

    @property
    def name(self) -> str:
        return self.precision

    def request(self, prompt_frames: int, frames: int) -> TokenRequest:
        self._key += 1
        prompt = random_sequence(prompt_frames)[0]
        return TokenRequest(self._key, prompt, frames, self.cross, GUIDED, self._key, stride_frames=900)

    def prefill_s(self, positions: int) -> float:
        self.parts.core.abort(self._key)
        self.parts.core.add(self.request(positions - 1, 1500))
        began_s = perf_counter()
        while not self.parts.core.step():
            pass
        return perf_counter() - began_s

    def steps_s(self, steps: int) -> list[float]:
        times = []
        for _ in range(steps):
            began_s = perf_counter()
            self.parts.core.step()
            times.append(perf_counter() - began_s)
        return times

    def weight_bytes(self) -> int:
        """Read by every step."""
        shape = self.parts.decoder.weights.shape
        per_layer = (3 + 1 + 2 + 8) * shape.width**2  # self in and out, cross query and out, feed-forward
        elements = shape.layers * per_layer + shape.codebooks * shape.card * shape.width
        return elements * {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}[self.precision]
