"""The networks of the tiny checkpoints: real classes of audiocraft and transformers, narrow, with random weights.

Every number comes from one seed, and no random state outside is touched. Sizes that clients and engine rely on are
those of MusicGen (32 kHz, 50 frames/s, 4 codebooks of 2048, delay pattern, T5 of width 768); only widths and depths
shrink. This file writes into the directories it is given; where they lie and when they are whole is `tiny.py`'s
business. Importing it settles the process's hub home.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import audiocraft
import sentencepiece
import torch
from audiocraft.models import builders
from audiocraft.utils.export import export_pretrained_compression_model
from omegaconf import OmegaConf
from transformers import EncodecConfig, EncodecModel, T5Config, T5EncoderModel, T5Tokenizer

SEED = 20260801
SAMPLE_RATE_HZ = 32_000
CODEBOOKS = 4
CODEBOOK_SIZE = 2048
RATIOS = [8, 5, 4, 4]  # 640 samples a frame: 50 frames/s
LATENT_WIDTH = 32
CODEC_FILTERS = 4
LEVEL_RMS = 0.1  # of decoded random codes: audible, and peaks stay below 1

T5_SENTENCES = (
    "drums and percussion, a breakbeat with a deep bass line at high tempo",
    "violin, epic, film, piano, strings, orchestra",
    "lofi chords with a slow beat, warm tape noise and a soft melody",
    "bright synthesizers, an energetic dance track, no vocals",
    "a quiet guitar plays alone; the crowd claps, the singer hums",
)

# The keys are those that audiocraft's builders read from the `xp.cfg` of a MusicGen.
CODEC_CONFIG: dict[str, Any] = {
    "sample_rate": SAMPLE_RATE_HZ,
    "channels": 1,
    "device": "cpu",
    "compression_model": "encodec",
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": SAMPLE_RATE_HZ,
        "channels": 1,
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": LATENT_WIDTH,
        "channels": 1,
        "causal": False,
        "n_filters": CODEC_FILTERS,
        "n_residual_layers": 1,
        "ratios": RATIOS,
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm",
        "norm_params": {},
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "reflect",
        "true_skip": True,
        "compress": 2,
        "lstm": 2,
        "disable_norm_outer_blocks": 0,
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
        "encoder": {},
    },
    "rvq": {"n_q": CODEBOOKS, "bins": CODEBOOK_SIZE, "kmeans_init": False, "q_dropout": False},
}

LM_CONFIG: dict[str, Any] = {
    "solver": "musicgen",
    "sample_rate": SAMPLE_RATE_HZ,
    "channels": 1,
    "device": "cpu",
    "dtype": "float32",
    "dataset": {"segment_duration": 30},
    "interleave_stereo_codebooks": {"use": False, "per_timestep": False},
    "compression_model_n_q": None,
    "lm_model": "transformer_lm",
    "codebooks_pattern": {
        "modeling": "delay",
        "delay": {"delays": list(range(CODEBOOKS)), "flatten_first": 0, "empty_initial": 0},
    },
    "transformer_lm": {
        "dim": 64,
        "num_heads": 4,
        "num_layers": 2,
        "hidden_scale": 4,
        "n_q": CODEBOOKS,
        "card": CODEBOOK_SIZE,
        "dropout": 0.0,
        "emb_lr": None,
        "activation": "gelu",
        "norm_first": True,
        "bias_ff": False,
        "bias_attn": False,
        "bias_proj": False,
        "past_context": None,
        "causal": True,
        "custom": False,
        "memory_efficient": True,
        "attention_as_float32": False,
        "layer_scale": None,
        "positional_embedding": "sin",
        "xpos": False,
        "checkpointing": "none",
        "weight_init": "gaussian",
        "depthwise_init": "current",
        "zero_bias_init": True,
        "norm": "layer_norm",
        "cross_attention": False,  # the builder turns it on, as `fuser.cross` names a condition
        "qk_layer_norm": False,
        "qk_layer_norm_cross": False,
        "attention_dropout": None,
        "kv_repeat": 1,
        "two_step_cfg": False,
    },
    "classifier_free_guidance": {"training_dropout": 0.3, "inference_coef": 3.0},
    "attribute_dropout": {},
    "fuser": {
        "cross_attention_pos_emb": False,
        "cross_attention_pos_emb_scale": 1,
        "sum": [],
        "prepend": [],
        "cross": ["description"],
        "input_interpolate": [],
    },
    "conditioners": {
        "description": {
            "model": "t5",
            "t5": {"name": "t5-base", "finetune": False, "word_dropout": 0.3, "normalize_text": False},
        }
    },
}


T = TypeVar("T")


def seeded(build: Callable[[], T], offset: int) -> T:
    """What `build` makes from `SEED + offset`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED + offset)
        return build()


def write_t5(snapshot: Path) -> None:
    """A random T5 encoder of t5-base's width, with a tokenizer trained here and now, as a hub snapshot."""
    write_random_t5(snapshot, T5_SENTENCES, vocabulary=128, width=768, offset=0)


def write_random_t5(snapshot: Path, sentences: Iterable[str], vocabulary: int, width: int, offset: int) -> None:
    """A T5 encoder of one layer with weights from `SEED + offset`, and a tokenizer trained on `sentences`.

    Args:
        vocabulary: of the tokenizer, at most.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocabulary,
        hard_vocab_limit=False,  # few sentences may hold fewer pieces
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,  # the ids of T5
        num_threads=1,
        minloglevel=2,
    )
    pieces = snapshot / "spiece.model"
    pieces.write_bytes(model.getvalue())
    tokenizer = T5Tokenizer(str(pieces), legacy=True)
    tokenizer.save_pretrained(snapshot)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=32, d_ff=128, num_layers=1, num_heads=2)
    seeded(lambda: T5EncoderModel(config), offset).save_pretrained(snapshot)


def write_lm(checkpoint: Path, **shape: int) -> None:
    """A random MusicGen decoder as audiocraft exports it; reads the `t5-base` of this process's hub cache.

    Args:
        shape: of `transformer_lm`, where it is another: dim, num_heads, num_layers.
    """
    config = {**LM_CONFIG, "transformer_lm": {**LM_CONFIG["transformer_lm"], **shape}}
    model = seeded(lambda: builders.get_lm_model(OmegaConf.create(config)), 1)
    _export(checkpoint / "state_dict.bin", model, config)


def write_codec(checkpoint: Path, codec: Any) -> None:
    """An EnCodec inside a checkpoint, as audiocraft exports it."""
    _export(checkpoint / "compression_state_dict.bin", codec, CODEC_CONFIG)


def write_codec_reference(checkpoint: Path) -> None:
    """What stands in a fine-tune instead of a codec: the name of one on the hub."""
    export_pretrained_compression_model("facebook/encodec_32khz", checkpoint / "compression_state_dict.bin")


def write_hub_codec(snapshot: Path, codec: Any) -> None:
    """The same network and weights as `codec`, in transformers' class, as a hub snapshot."""
    config = EncodecConfig(
        sampling_rate=SAMPLE_RATE_HZ,
        audio_channels=1,
        hidden_size=LATENT_WIDTH,
        num_filters=CODEC_FILTERS,
        num_residual_layers=1,
        num_lstm_layers=2,
        upsampling_ratios=RATIOS,
        norm_type="weight_norm",
        pad_mode="reflect",
        use_causal_conv=False,
        use_conv_shortcut=False,
        codebook_size=CODEBOOK_SIZE,
        target_bandwidths=[2.2],  # kbit/s: 4 codebooks of 11 bits, 50 times a second
    )
    model = EncodecModel(config)
    ours, theirs = codec.state_dict(), model.state_dict()
    assert len(ours) == len(theirs), f"{len(ours)} tensors against {len(theirs)}"
    # Both classes list the tensors of the one network in the same order, under other names.
    model.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    model.save_pretrained(snapshot)


def make_codec() -> Any:
    """A random EnCodec whose codes depend on what it hears and whose sound has a sane level."""
    config = OmegaConf.create(CODEC_CONFIG)
    codec = seeded(lambda: builders.get_compression_model(config), 2).eval()
    for name, bias in codec.named_parameters():
        if "bias" in name.rpartition(".")[2]:
            bias.data.zero_()  # random biases would drown the signal in a constant
    seeded(lambda: _spread_codebooks(codec), 3)
    seeded(lambda: _set_level(codec), 4)
    return codec


def _spread_codebooks(codec: Any) -> None:
    """Draws each codebook around what is left for it to code: else every sound would get the same code."""
    time_s = torch.arange(8 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ  # [N]
    chirp = torch.sin(2 * torch.pi * (50 + 400 * time_s) * time_s)
    swell = (time_s % 0.5) * 2  # from silence to full, twice a second
    audio = swell * (0.4 * chirp + 0.2 * torch.randn_like(time_s))
    residual = codec.encoder(audio[None, None])[0].T  # [T, D]
    for layer in codec.quantizer.vq.layers:
        codebook = layer._codebook  # noqa: SLF001 - audiocraft gives it no other name
        noise = torch.randn(CODEBOOK_SIZE, LATENT_WIDTH)  # [card, D]
        codebook.embed.copy_(residual.mean(0) + noise * residual.std(0))
        codebook.embed_avg.copy_(codebook.embed)
        codebook.inited.fill_(1)  # else the first encode would run k-means
        residual = residual - codebook.embed[codebook.quantize(residual)]


def _set_level(codec: Any) -> None:
    """Scales the last convolution so that random codes sound at LEVEL_RMS."""
    codes = torch.randint(CODEBOOK_SIZE, (1, CODEBOOKS, 200))  # [B, K, T]
    codec.decoder.model[-1].conv.conv.weight_g.mul_(LEVEL_RMS / codec.decode(codes).std())


def _export(file: Path, model: Any, config: dict[str, Any]) -> None:
    """Writes what `audiocraft.utils.export` would: weights, and the configuration as a string of YAML."""
    file.parent.mkdir(parents=True, exist_ok=True)
    package = {
        "best_state": model.state_dict(),
        "xp.cfg": OmegaConf.to_yaml(OmegaConf.create(config)),
        "version": audiocraft.__version__,
        "exported": True,
    }
    torch.save(package, file)
