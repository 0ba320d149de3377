"""A loaded MusicGen taken apart, into what the batching engine is made of. After this no library's model is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gary.config import EngineConfig
from gary.engine.admission import ModelLimits
from gary.engine.card import checkpoint_sha256, engine_version
from gary.engine.codec import Codec
from gary.engine.conditioning import TextConditioner
from gary.engine.core import EngineCore
from gary.engine.device import settle_arithmetic
from gary.engine.graphs import graphed_steps
from gary.engine.linear import Precision, check_precision, default_precision
from gary.engine.memory import cache_bytes, weights_bytes
from gary.engine.model import Decoder, cache_dtype
from gary.engine.patterns import DelayPattern, delays_of
from gary.engine.request import ModelCard
from gary.engine.runner import Runner
from gary.engine.scheduler import Scheduler
from gary.engine.weights import DecoderWeights, take_weights
from gary.errors import DeviceError

if TYPE_CHECKING:
    from audiocraft.models.musicgen import MusicGen


@dataclass(frozen=True)
class Parts:
    """What an engine is made of once its checkpoint is loaded.

    Attributes:
        held_bytes: of its device's memory, for all of this.
    """

    core: EngineCore
    codec: Codec
    decoder: Decoder
    text: TextConditioner
    limits: ModelLimits
    card: ModelCard
    held_bytes: int


def make_parts(model: MusicGen, device: str, config: EngineConfig) -> Parts:
    """Takes a loaded MusicGen apart; of audiocraft's own language model only the text conditioner stays."""
    if device == "cuda":
        settle_arithmetic()
    lm = model.lm
    precision: Precision = default_precision(device) if config.precision == "auto" else config.precision
    check_precision(precision, device)
    pattern = DelayPattern(delays_of(lm.pattern_provider))
    codec = Codec.of(model.compression_model, device)
    window_frames = int(model.max_duration * model.frame_rate)
    window = pattern.positions(window_frames)
    weights = take_weights(lm, precision)
    checkpoint = checkpoint_sha256(lm)
    text = TextConditioner(lm.condition_provider)
    held_bytes = weights_bytes(model, weights)
    model.lm = None  # type: ignore[assignment]  # its tensors are ours now, cast or packed
    rows = _rows(weights, window, device, config)
    decoder = Decoder(weights, rows, window, device)
    slots = min(rows, config.slots)
    steps = graphed_steps(decoder, slots) if device == "cuda" and config.cuda_graphs else None
    core = EngineCore(
        Runner(decoder, slots, window, device, steps),
        Scheduler(slots, rows, window, config.prefill_chunk),
        pattern,
        window_frames,
        weights.shape.card,
    )
    limits = ModelLimits(
        sample_rate_hz=codec.sample_rate_hz,
        channels=codec.channels,
        frame_samples=codec.frame_samples,
        window_frames=window_frames,
        codebooks=codec.codebooks,
        codebook_size=codec.codebook_size,
    )
    card = ModelCard(
        checkpoint_sha256=checkpoint,
        codec_sha256=codec.sha256,
        engine_version=engine_version(config.prefill_chunk),
        precision=precision,
        device=device,
        sample_rate_hz=codec.sample_rate_hz,
        channels=codec.channels,
        frame_samples=codec.frame_samples,
    )
    return Parts(core, codec, decoder, text, limits, card, held_bytes + cache_bytes(decoder))


def _rows(weights: DecoderWeights, window: int, device: str, config: EngineConfig) -> int:
    """Rows of the cache that its memory holds: two for each slot at most, since guidance takes two.

    Raises:
        DeviceError: not even one guided request fits.
    """
    shape = weights.shape
    row_bytes = 2 * shape.layers * window * shape.width * cache_dtype(weights, device).itemsize  # keys and values
    rows = min(2 * config.slots, config.cache_bytes // row_bytes)
    if rows < 2:
        raise DeviceError(f"cache_bytes is {config.cache_bytes}; one guided request takes {2 * row_bytes}")
    return rows
