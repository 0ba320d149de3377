"""The codec against audiocraft's: the same codes, and streamed samples that are those of one whole decode.

Every comparison records its largest error (`--junitxml` shows it) and is held to TOLERANCE.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gary.audio.clip import Samples
from gary.engine.checkpoint import load
from gary.engine.codec import Codec
from gary.engine.hub import use_hub
from gary.engine.imports import audiocraft_imports
from gary.engine.tiny import make_checkpoints
from gary.errors import CheckpointError

MODELS = Path(__file__).parents[2] / ".models"

# Sums of fp32 in another order differ by some 1e-7 at this level; a lost state or a wrong padding by over 1e-3.
TOLERANCE = 1e-5

KINDS = ("audiocraft", "transformers", "stereo")
Record = Callable[[str, object], None]


@pytest.fixture(scope="module", autouse=True)
def hub() -> Iterator[None]:
    """The tiny checkpoints, and one thread: torch's threads stand in each other's way on a busy machine."""
    use_hub(MODELS, offline=True)  # before anything that imports the hub's libraries
    make_checkpoints(MODELS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compression_model(kind: str) -> Any:
    """A codec as audiocraft loads it: its own class, transformers', or its own twice for stereo."""
    name = "gary-tiny-hf" if kind == "transformers" else "gary-tiny"
    model = load(str(MODELS / name), "cpu").compression_model
    return wrapped(model, per_timestep=False) if kind == "stereo" else model


def wrapped(model: Any, per_timestep: bool) -> Any:
    from audiocraft.models.builders import get_wrapped_compression_model
    from omegaconf import OmegaConf

    settings = {"use": True, "per_timestep": per_timestep}
    config = OmegaConf.create({"interleave_stereo_codebooks": settings, "compression_model_n_q": None})
    return get_wrapped_compression_model(model, config)


def random_model(seanet: dict[str, Any], encodec: dict[str, Any] | None = None) -> Any:
    """An EnCodec of audiocraft's builder with random weights, the tiny one but for these settings."""
    from audiocraft.models.builders import get_compression_model
    from omegaconf import OmegaConf

    from gary.engine.tiny_weights import CODEC_CONFIG, seeded

    config = deepcopy(CODEC_CONFIG)
    config["seanet"].update(seanet)
    config["encodec"].update(encodec or {})

    def build() -> Any:
        model = get_compression_model(OmegaConf.create(config)).eval()
        quantizer: Any = model.quantizer
        for layer in quantizer.vq.layers:
            layer._codebook.embed.normal_()
            layer._codebook.inited.fill_(1)  # else the first encode would run k-means
        return model

    with audiocraft_imports():
        return seeded(build, 5)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: compression_model(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def codecs(models: dict[str, Any]) -> dict[str, Codec]:
    return {kind: Codec.of(model, "cpu") for kind, model in models.items()}


def some_codes(codec: Codec, frames: int, seed: int = 1) -> torch.Tensor:
    """[K, T] int64"""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(codec.codebook_size, (codec.codebooks, frames), generator=random)


def whole(model: Any, codes: torch.Tensor) -> Samples:
    """audiocraft's own decode, [C, N]."""
    with torch.no_grad():
        samples: Samples = model.decode(codes[None], None)[0].numpy()
    return samples


def streamed(codec: Codec, codes: torch.Tensor, lengths: Sequence[int]) -> list[Samples]:
    """What each push returns, and at last `finish`."""
    decoder = codec.streaming_decoder()
    return [*(decoder.push(part) for part in torch.split(codes, list(lengths), dim=1)), decoder.finish()]


def cut(frames: int, length: int) -> list[int]:
    """As many stretches of one length as there are, and the rest."""
    return [length] * (frames // length) + [frames % length]


def error_against(expected: Samples, parts: Sequence[Samples]) -> float:
    """The largest error, where shape and type are as they must be and there is something to be heard."""
    got = np.concatenate(parts, axis=1)
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.abs(expected).max() > 0.01, "silence would hide an error"
    return float(np.abs(got - expected).max())


# ---- decoding ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "frames"), [(1, 200), (10, 300), (50, 1500), (250, 1500), (1500, 1500)])
def test_even_stretches_are_the_whole(
    models: dict[str, Any], codecs: dict[str, Codec], record_property: Record, kind: str, length: int, frames: int
) -> None:
    """From frame by frame up to 30 s at once, the stretches joined are audiocraft's decode."""
    codes = some_codes(codecs[kind], frames)
    error = error_against(whole(models[kind], codes), streamed(codecs[kind], codes, cut(frames, length)))
    record_property("largest_error", error)
    assert error < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_any_cutting_is_the_whole(models: dict[str, Any], codecs: dict[str, Codec], kind: str) -> None:
    """However a stream is cut, empty stretches among them, nothing but rounding differs."""
    codec = codecs[kind]
    codes = some_codes(codec, 120)
    some_frames = st.integers(0, 30) | st.integers(0, 3)
    cuttings = st.lists(some_frames, min_size=1, max_size=12).filter(lambda lengths: 0 < sum(lengths) <= 120)

    @settings(max_examples=40, deadline=None)
    @given(lengths=cuttings)
    def holds(lengths: list[int]) -> None:
        part = codes[:, : sum(lengths)]
        assert error_against(whole(models[kind], part), streamed(codec, part, lengths)) < TOLERANCE

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_few_frames(models: dict[str, Any], codecs: dict[str, Codec], kind: str) -> None:
    """Shorter than the first kernel, where the mirrored padding itself is cut short: at once and frame by frame."""
    for frames in range(1, 9):
        codes = some_codes(codecs[kind], frames, seed=frames)
        expected = whole(models[kind], codes)
        for lengths in ([frames], [1] * frames):
            assert error_against(expected, streamed(codecs[kind], codes, lengths)) < TOLERANCE


@pytest.mark.parametrize(
    ("seanet", "encodec"),
    [
        ({"pad_mode": "constant"}, {}),
        ({"true_skip": False, "n_residual_layers": 3}, {}),
        ({"ratios": [5, 3, 2], "kernel_size": 4, "last_kernel_size": 6}, {}),
        ({"lstm": 0, "disable_norm_outer_blocks": 2}, {}),
        ({"causal": True, "n_residual_layers": 2}, {"causal": True}),
        (
            {"causal": True, "decoder": {"trim_right_ratio": 0.5, "final_activation": "Tanh"}},
            {"causal": True},
        ),
    ],
    ids=["zeros", "dilated", "odd", "no-lstm", "causal", "causal-half-trimmed"],
)
def test_every_setting_of_the_network(record_property: Record, seanet: dict[str, Any], encodec: dict[str, Any]) -> None:
    """Paddings, trimmings and layers that MusicGen's codec does not use today stream as exactly."""
    model = random_model(seanet, encodec)
    codec = Codec.of(model, "cpu")
    errors = []
    for frames, length in ((1, 1), (2, 1), (3, 3), (60, 1), (60, 7), (60, 60)):
        codes = some_codes(codec, frames)
        errors.append(error_against(whole(model, codes), streamed(codec, codes, cut(frames, length))))
    record_property("largest_error", max(errors))
    assert max(errors) < TOLERANCE


def test_full_size(record_property: Record) -> None:
    """The shape of MusicGen's own codec (64 filters, width 128), random weights: same codes, same sound."""
    model = random_model({"n_filters": 64, "dimension": 128})
    codec = Codec.of(model, "cpu")
    codes = some_codes(codec, 70)
    error = error_against(whole(model, codes), streamed(codec, codes, [10, 1, 50, 9]))
    record_property("largest_error", error)
    assert error < TOLERANCE
    wave = torch.rand(1, 16_001, generator=torch.Generator().manual_seed(1)) - 0.5  # [C, N]
    with torch.no_grad():
        assert torch.equal(codec.encode(wave), model.encode(wave[None])[0][0])


def test_state_is_what_makes_it_exact(models: dict[str, Any], codecs: dict[str, Codec]) -> None:
    """The same stretches decoded each for itself are far off: the tolerance tells the two apart."""
    codes = some_codes(codecs["audiocraft"], 100)
    alone = [
        np.concatenate(streamed(codecs["audiocraft"], part, [50]), axis=1) for part in torch.split(codes, 50, dim=1)
    ]
    assert error_against(whole(models["audiocraft"], codes), alone) > 100 * TOLERANCE


# ---- how it streams ----


@pytest.mark.parametrize("kind", KINDS)
def test_sound_comes_a_few_frames_behind(codecs: dict[str, Codec], kind: str) -> None:
    """Once the look-ahead is filled, each frame pushed returns one frame's samples; never more than 4 are owed."""
    codec = codecs[kind]
    *pushed, rest = (part.shape for part in streamed(codec, some_codes(codec, 30), [1] * 30))
    assert {shape[0] for shape in (*pushed, rest)} == {codec.channels}
    assert {shape[1] for shape in pushed[4:]} == {codec.frame_samples}
    assert rest[1] <= 4 * codec.frame_samples


def test_a_stream_without_frames_is_empty(codecs: dict[str, Codec]) -> None:
    """Nothing pushed, or only empty stretches: no sample, and no error."""
    for codec in codecs.values():
        assert [part.shape for part in streamed(codec, some_codes(codec, 0), [0, 0])] == [(codec.channels, 0)] * 3


def test_decoders_do_not_disturb_each_other(codecs: dict[str, Codec]) -> None:
    """Streams in turns, and streams in threads, have bit for bit the samples of a stream alone."""
    codec = codecs["audiocraft"]
    codes = [some_codes(codec, 60, seed=seed) for seed in range(3)]
    alone = [np.concatenate(streamed(codec, own, [20] * 3), axis=1) for own in codes]

    decoders = [codec.streaming_decoder() for _ in codes]
    turns = zip(*(torch.split(own, 20, dim=1) for own in codes), strict=True)
    rounds = [[decoder.push(part) for decoder, part in zip(decoders, parts, strict=True)] for parts in turns]
    rounds.append([decoder.finish() for decoder in decoders])
    in_turns = [np.concatenate(parts, axis=1) for parts in zip(*rounds, strict=True)]

    with ThreadPoolExecutor(3) as threads:
        in_threads = list(threads.map(lambda own: np.concatenate(streamed(codec, own, [20] * 3), axis=1), codes))

    for expected, by_turns, by_threads in zip(alone, in_turns, in_threads, strict=True):
        np.testing.assert_array_equal(by_turns, expected)
        np.testing.assert_array_equal(by_threads, expected)


def tensor_bytes() -> int:
    """The memory of all tensors that live, each storage once."""
    gc.collect()
    storages = [found.untyped_storage() for found in gc.get_objects() if type(found) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_decoder_holds_little_however_much_it_was_given(codecs: dict[str, Codec]) -> None:
    """Between two pushes it holds as much after 30 s at once as after a second: states, no samples."""
    codec = codecs["audiocraft"]
    short, long = some_codes(codec, 50), some_codes(codec, 1500)
    decoder = codec.streaming_decoder()
    before = tensor_bytes()
    decoder.push(short)
    held = tensor_bytes() - before
    decoder.push(long)
    assert 0 < held < 64 * 1024
    assert tensor_bytes() - before == held


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_s_decoder_is_not_kept(kind: str) -> None:
    """Its weights are in memory once: the codec still encodes and decodes when the loaded model is gone."""
    model = compression_model(kind)
    codec = Codec.of(model, "cpu")
    inner = model.model if kind == "stereo" else model
    decoder = weakref.ref((inner.model if kind == "transformers" else inner).decoder)
    del model, inner
    gc.collect()
    assert decoder() is None
    codes = codec.encode(torch.rand(codec.channels, 6400))
    assert sum(part.shape[1] for part in streamed(codec, codes, [10])) == 6400


# ---- encoding ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length_samples", [1, 639, 640, 641, 32_000, 50_001])
def test_codes_are_audiocraft_s(
    models: dict[str, Any], codecs: dict[str, Codec], kind: str, length_samples: int
) -> None:
    """Every code, for lengths that fill their last frame and lengths that do not, arrays and tensors alike."""
    codec = codecs[kind]
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, (codec.channels, length_samples)).astype(np.float32)  # [C, N]
    wave.flags.writeable = False
    with torch.no_grad():
        expected = models[kind].encode(torch.tensor(wave)[None])[0][0]
    codes = codec.encode(wave)
    assert codes.dtype == torch.int64
    assert codes.shape == (codec.codebooks, -(-length_samples // codec.frame_samples))
    assert torch.equal(codes, expected)
    assert torch.equal(codec.encode(torch.tensor(wave)), expected)


def test_sizes(codecs: dict[str, Codec]) -> None:
    """Both classes say the same of the one network; stereo has two channels and twice the codebooks."""
    sizes = {
        kind: (codec.sample_rate_hz, codec.channels, codec.frame_rate_hz, codec.frame_samples, codec.codebooks)
        for kind, codec in codecs.items()
    }
    assert sizes["audiocraft"] == sizes["transformers"] == (32_000, 1, 50.0, 640, 4)
    assert sizes["stereo"] == (32_000, 2, 50.0, 640, 8)
    assert {codec.codebook_size for codec in codecs.values()} == {2048}


# ---- what is refused ----


def hub_model(**config: Any) -> Any:
    """transformers' codec as audiocraft wraps it, with random weights."""
    from audiocraft.models.encodec import HFEncodecCompressionModel
    from transformers import EncodecConfig, EncodecModel

    sizes = {"num_filters": 4, "hidden_size": 8, "num_lstm_layers": 1, "target_bandwidths": [1.5]}
    return HFEncodecCompressionModel(EncodecModel(EncodecConfig(**sizes, **config)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: random_model({}, {"renormalize": True}),
        lambda: random_model({"norm": "time_group_norm"}),
        lambda: random_model({"pad_mode": "replicate"}),
        lambda: random_model({"decoder": {"final_activation": "Softmax"}}),
        lambda: wrapped(random_model({}), per_timestep=True),
        lambda: hub_model(normalize=True),
        lambda: hub_model(chunk_length_s=1.0, overlap=0.01),
        lambda: hub_model(norm_type="time_group_norm"),
        torch.nn.Identity,
    ],
    ids=[
        "loudness",
        "group-norm",
        "padding",
        "activation",
        "in-time",
        "hub-loudness",
        "hub-chunks",
        "hub-norm",
        "other",
    ],
)
def test_a_codec_that_cannot_be_streamed_exactly_is_refused(build: Callable[[], Any]) -> None:
    """It is an error of the checkpoint when the model is loaded, not a wrong sound later."""
    model = build()
    with pytest.raises(CheckpointError, match="codec"):
        Codec.of(model, "cpu")
