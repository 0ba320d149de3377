"""Time, in the codec's frames. A sixteenth is a whole number of frames, and so is a bar: codes repeat with the music.

Off this grid the same bar, played again, begins elsewhere within a frame, and nearly none of its codes return.
"""

from __future__ import annotations

RATE_HZ = 32_000
FRAME_SAMPLES = 640
FRAMES_S = RATE_HZ // FRAME_SAMPLES  # 50 frames a second
CODEBOOK_SIZE = 2048
STEPS = 16  # sixteenths of a 4/4 bar
STEP_FRAMES = range(4, 13)  # frames of a sixteenth: 187.5 to 62.5 bpm


def bpm_of(step_frames: int) -> float:
    """Quarter notes a minute where a sixteenth lasts so many frames."""
    return 60 * FRAMES_S / (4 * step_frames)


def bar_frames(step_frames: int) -> int:
    return STEPS * step_frames


def bar_samples(step_frames: int) -> int:
    return bar_frames(step_frames) * FRAME_SAMPLES
