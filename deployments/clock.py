"""How long the stages of an attempt take."""

from time import monotonic


class StageClock:
    """Seconds of each stage, from one `end` to the next."""

    def __init__(self) -> None:
        self.stages_s: dict[str, float] = {}
        self._since_s = monotonic()

    def end(self, stage: str) -> None:
        now_s = monotonic()
        self.stages_s[stage] = round(now_s - self._since_s, 3)
        self._since_s = now_s
