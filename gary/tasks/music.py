"""What a piece of music is that is asked for, and what it was made of: the values of a music job.

No database, no clock, no I/O; where a task stands is `task.py`'s business.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Value(BaseModel):
    """Base of all values here: unknown keys are errors, values do not change, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Sampling(Value):
    """How tokens are drawn; the names are those of the engine's parameters."""

    top_k: Annotated[int, Field(ge=0)] = 250
    top_p: Annotated[float, Field(ge=0, le=1, description="above 0 it overrides top_k")] = 0.0
    temperature: Annotated[float, Field(ge=0, description="0 is greedy")] = 1.0
    cfg_coef: Annotated[float, Field(ge=0, description="guidance; 1 is none")] = 3.0
    extend_stride_s: Annotated[
        float, Field(gt=0, lt=30, description="how far the window slides in music beyond the model's 30 s")
    ] = 18.0


class LinkSource(Value):
    """What plays at a URL.

    Attributes:
        url: as the client sent it.
        link: where the audio is fetched from: `url` in its canonical form.
        site: the kind of source that `link` is.
        start_s: where the prompt begins, with the side `cursor`.
    """

    kind: Literal["link"] = "link"
    url: Annotated[str, Field(min_length=1)]
    link: Annotated[str, Field(min_length=1)]
    site: Literal["youtube", "soundcloud", "direct"]
    start_s: Annotated[float, Field(ge=0)] = 0.0


class UploadSource(Value):
    """The task's upload.

    Attributes:
        name: of the file, as the client sent it; only shown.
        start_s: where the prompt begins, with the side `cursor`.
    """

    kind: Literal["upload"] = "upload"
    name: str | None = None
    start_s: Annotated[float, Field(ge=0)] = 0.0


class TaskSource(Value):
    """A take of an earlier task, the parent, or a stretch of it: the answer begins with that stretch, bit for bit.

    Attributes:
        start_s: where the stretch begins; taken back to the last whole frame of codes.
        end_s: where it ends; None is the parent's end.
    """

    kind: Literal["task"] = "task"
    task: Id
    take: Annotated[int, Field(ge=0)] = 0
    start_s: Annotated[float, Field(ge=0)] = 0.0
    end_s: Annotated[float, Field(gt=0)] | None = None


MusicSource = Annotated[LinkSource | UploadSource | TaskSource, Field(discriminator="kind")]

Format = Literal["wav", "flac", "mp3", "opus"]

TAKES_MAX = 8


class Length(Value):
    """How much new music: so many seconds, or whole bars within a range of seconds, or so many bars.

    Attributes:
        tempo_bpm: of the bars; None has it heard in the source.
    """

    seconds: Annotated[float, Field(gt=0)] | None = None
    min_s: Annotated[float, Field(gt=0)] | None = None
    max_s: Annotated[float, Field(gt=0)] | None = None
    bars: Annotated[int, Field(ge=1, le=64)] | None = None
    tempo_bpm: Annotated[float, Field(ge=30, le=300)] | None = None

    @model_validator(mode="after")
    def _is_one_length(self) -> Self:
        if (self.min_s is None) != (self.max_s is None):
            raise ValueError("min_s and max_s come together")
        given = [self.seconds is not None, self.max_s is not None, self.bars is not None]
        if sum(given) != 1:
            raise ValueError("one of seconds, bars, or min_s with max_s is given, and no other")
        if self.min_s is not None and self.max_s is not None and self.min_s > self.max_s:
            raise ValueError(f"min_s {self.min_s:g} is over max_s {self.max_s:g}")
        return self


class MusicJob(Value):
    """New music after a prompt taken from a source. The answer is what came before (the prompt; of a task, the
    stretch that its source names) and the new music.

    Attributes:
        prompt_s: length of the prompt, at most what there is.
        side: where in the source the prompt lies: from `start_s` on, its first, or its last `prompt_s` seconds. Of a
            task it is the tail.
        seed: of the first take; take n is what `seed + n` alone would make.
        format: in which the answer is sent where a client names none.
        holder: name of the API key that asked; None where none is asked for.
    """

    kind: Literal["music"] = "music"
    source: MusicSource
    model: Annotated[str, Field(min_length=1)]
    prompt_s: Annotated[float, Field(gt=0)]
    side: Literal["cursor", "head", "tail"]
    length: Length
    description: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)]
    takes: Annotated[int, Field(ge=1, le=TAKES_MAX)] = 1
    sampling: Sampling = Sampling()
    format: Format = "wav"
    holder: str | None = None

    @property
    def url(self) -> str:
        """The link as the client sent it; empty where the source is none."""
        return self.source.url if isinstance(self.source, LinkSource) else ""

    @property
    def start_s(self) -> float:
        return self.source.start_s


class AudioFile(Value):
    """A file of the task store."""

    file_id: Id
    size_bytes: Annotated[int, Field(ge=0)]


class Take(Value):
    """One finished answer of a music job.

    Attributes:
        wav: 16-bit PCM.
        codes: the same music as codes; see `gary.audio.codes`.
        wav_sha256: of the file's bytes.
    """

    seed: Annotated[int, Field(ge=0)]
    wav: AudioFile
    codes: AudioFile
    wav_sha256: Sha256
    duration_s: Annotated[float, Field(gt=0)]


class Sheet(Value):
    """What is being made, known from the first step of generating on.

    Attributes:
        sample_rate_hz: of the answer; it has 16-bit samples.
        source_samples: per channel, of what came before the new music: where the prompt ends in the answer.
        length_samples: per channel, of the whole answer.
        prompt_s: length of the prompt as it was taken.
        tempo_bpm: of the source; None where no beat was heard.
        tempo_confidence: 0 to 1.
        bars: of new music; None where its length was not asked for in bars and no beat was heard.
        tempo_assumed: bars were asked for and no beat was heard; they are as long as at 120 beats a minute.
    """

    sample_rate_hz: Annotated[int, Field(gt=0)]
    channels: Annotated[int, Field(gt=0)]
    source_samples: Annotated[int, Field(ge=0)]
    length_samples: Annotated[int, Field(gt=0)]
    prompt_s: Annotated[float, Field(ge=0)]
    tempo_bpm: float | None = None
    tempo_confidence: float = 0.0
    tempo_assumed: bool = False
    bars: int | None = None


class Receipt(Value):
    """With which the same samples can be made again: same model, same input, same parameters, same seed.

    Attributes:
        input_sha256: of the prompt as it went into the model: its samples (float32, [C, N], rate) or its codes.
    """

    model: str
    checkpoint_sha256: str
    codec_sha256: str
    engine_version: str
    precision: str
    device: str
    input_sha256: Sha256
    length_samples: int
    description: str | None
    seed: int
    takes: int
    sampling: Sampling
