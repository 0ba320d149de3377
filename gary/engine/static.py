"""A step of decoding in fixed shapes: what a CUDA graph can hold, and what the CPU runs as it is in tests.

The law: `StaticStep.compute` reads and writes tensors of fixed address alone, its shapes are those of its `StepShape`,
and nothing in it waits for a value. Feeding, attention, guidance, drawing, the write-back of what was drawn and the
move to the next position are all inside, so that steps can be queued one behind the other; the host speaks only when
the company changes.

A step works on the first rows of the cache as they lie, for to gather rows would be to copy their keys: row i is lane
i. Lanes of which nobody decodes (free, still being prefilled, decoded elsewhere) are fed from a slot that is nobody's
and write to the last position of the window, which no sequence ever feeds: it does no harm and is never read.

Shapes: R cache rows, B of them in the step, K codebooks, D width, H heads, S window, T text positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from gary.engine.model import CrossCache, Decoder
from gary.engine.patterns import UNKNOWN
from gary.engine.request import GenerationParams
from gary.engine.runner import SlotState
from gary.engine.sampler import Method, RowParams, guide, sample, uniforms
from gary.engine.step import SlotWork
from gary.engine.weights import LayerWeights

_LENGTH_STEP = 256  # positions
TEXT_BUCKETS = (0, 32, 128)  # text positions; 0 leaves cross attention out. A longer text is not for this file

# Both take a mask; which torch would prefer of those that do depends on the chip and on cuDNN's version.
_BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, order=True)
class StepShape:
    """All that one captured step differs from another in."""

    rows: int  # B
    length: int  # positions attended, the longest row's at least
    text: int  # text positions attended


@dataclass(frozen=True)
class Buckets:
    """The sizes that steps are rounded up to, each ascending."""

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    texts: tuple[int, ...] = TEXT_BUCKETS

    @classmethod
    def of(cls, rows: int, window: int) -> Buckets:
        """Powers of two up to all rows; every so many positions up to the window."""
        powers = (2**power for power in range((rows - 1).bit_length()))
        return cls((*powers, rows), (*range(_LENGTH_STEP, window, _LENGTH_STEP), window))

    def shape(self, rows: int, length: int, text: int) -> StepShape:
        """The least that holds so much."""
        return StepShape(_least(self.rows, rows), _least(self.lengths, length), _least(self.texts, text))

    def shapes(self) -> list[StepShape]:
        """All there are, largest first."""
        found = [StepShape(rows, length, text) for rows in self.rows for length in self.lengths for text in self.texts]
        return sorted(found, reverse=True)


def _least(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)


@dataclass(frozen=True)
class _Lanes:
    """What each lane of a step does: int64 `[B]` each, views of one table."""

    position: torch.Tensor  # to be fed; the step moves it on
    slot: torch.Tensor  # whose sequence and parameters
    into: torch.Tensor  # whose sequence takes what is drawn: nobody's, where an unconditional row only guides
    partner: torch.Tensor  # the row that guides this one; itself where none does
    text: torch.Tensor  # positions of its description; 0 for the null condition


_COLUMNS = 5


class StaticStep:
    """A decoder's rows with everything that a step needs beside them, on the device and at fixed addresses.

    Args:
        decoder: its cache is shared: prompts are fed by the decoder itself, steps by this class.
        slots: requests; one more, nobody's, is kept for lanes that have none.
        buckets: sizes of steps; those of the decoder's rows and window unless given.
    """

    def __init__(self, decoder: Decoder, slots: int, buckets: Buckets | None = None) -> None:
        shape, device = decoder.weights.shape, decoder.positions.device
        self._weights = decoder.weights
        self._cache = decoder.cache
        self._position_table = decoder.positions  # [S, D]
        rows, _, self._window, _ = self._cache[0][0].shape
        self.buckets = buckets or Buckets.of(rows, self._window)
        self._nobody = slots
        self.sequences = torch.full((slots + 1, shape.codebooks, self._window), UNKNOWN, device=device)
        self.sequences[self._nobody] = 0  # a token that exists
        nobodys = [GenerationParams(use_sampling=False)] * (slots + 1)
        self._params = RowParams.of(nobodys, [0] * (slots + 1), shape.card, device)
        self._counters = torch.zeros(slots + 1, dtype=torch.int64, device=device)  # of the noise at position 0
        text_size = (rows, shape.heads, self.buckets.texts[-1], shape.head_width)  # [R, H, T, D / H]
        self._text = [(keys.new_zeros(text_size), keys.new_zeros(text_size)) for keys, _ in self._cache]
        self._table = self._idle_table().to(device)  # [columns, R]
        self._crosses: list[CrossCache | None] = [None] * slots
        # By slot, what its lanes do next as the device has it; None where the guest has gone since.
        self._next: dict[int, SlotWork | None] = {}

    # ---- on the host, when the company changes ----

    def serves(self, cross: CrossCache | None) -> bool:
        """Whether requests with this description can be stepped here."""
        return _text_length(cross) <= self.buckets.texts[-1]

    def seat(self, slot: int, state: SlotState) -> None:
        """Gives a slot to a request, whose sequence is in its place already and whose prompt is fed elsewhere."""
        if slot in self._next:
            self._next[slot] = None
        self._crosses[slot] = state.cross
        device = self._counters.device
        self._params.write(slot, RowParams.of([state.params], [state.seed], self._weights.shape.card, device))
        self._counters[slot].fill_(state.counter)

    def arrange(self, works: Sequence[SlotWork]) -> StepShape:
        """Makes the lanes do these works, one position each; sends nothing where they are the last step's successors.

        Returns:
            The shape that the step has to have.
        """
        assert works, "a step without work"
        wanted = {work.slot: work for work in works}
        if wanted != self._next:
            for slot, work in wanted.items():
                if self._next.get(slot) != work:
                    self._move_in(work)
            self._send(works)
        self._next = {slot: _successor(work) for slot, work in wanted.items()}
        return self.buckets.shape(
            rows=1 + max(row for work in works for row in work.rows),
            length=1 + max(work.start for work in works),
            text=max(_text_length(self._crosses[work.slot]) for work in works),
        )

    def _move_in(self, work: SlotWork) -> None:
        """The description into its row; and away with what former guests left behind the prompt.

        A masked key has weight 0, and 0 times a number that is none is none: one overflow would outlive its request.
        """
        cross, row = self._crosses[work.slot], work.rows[0]
        for each in work.rows:
            for keys, values in self._cache:
                keys[each, :, work.start :].zero_()
                values[each, :, work.start :].zero_()
        if cross is None:
            return
        for (keys, values), key, value in zip(self._text, cross.keys, cross.values, strict=True):
            for target, source in ((keys, key), (values, value)):
                target[row].zero_()
                target[row, :, : source.shape[2]].copy_(source[0])

    def _send(self, works: Sequence[SlotWork]) -> None:
        table = self._idle_table()
        lanes = _Lanes(*table)
        for work in works:
            assert (work.length, work.samples) == (1, True), f"{work} is no step of decoding"
            first, *second = work.rows
            for row in work.rows:
                lanes.position[row], lanes.slot[row] = work.start, work.slot
            lanes.into[first] = work.slot
            lanes.partner[first] = second[0] if second else first
            lanes.text[first] = _text_length(self._crosses[work.slot])
        if self._table.is_cuda:
            table = table.pin_memory()  # or else the copy would wait for all steps before it
        self._table.copy_(table, non_blocking=True)

    def _idle_table(self) -> torch.Tensor:
        """[columns, R], on the CPU."""
        rows = self._cache[0][0].shape[0]
        table = torch.zeros(_COLUMNS, rows, dtype=torch.int64)
        lanes = _Lanes(*table)
        lanes.position.fill_(self._window - 1)
        lanes.slot.fill_(self._nobody)
        lanes.into.fill_(self._nobody)
        lanes.partner.copy_(torch.arange(rows))
        return table

    # ---- on the device, in every step ----

    @torch.no_grad()
    def compute(self, shape: StepShape) -> None:
        """Feeds, draws, writes back and moves on, for the first `shape.rows` rows; nothing here waits."""
        lanes = _Lanes(*self._table[:, : shape.rows])
        with sdpa_kernel(_BACKENDS):
            logits = self._logits(lanes, shape)  # [B, K, card]
        params = self._params.at(lanes.slot)
        guided = guide(logits, logits.index_select(0, lanes.partner), params.cfg_coef)
        steps = self._counters.index_select(0, lanes.slot) + lanes.position + 1  # [B]
        noise = uniforms(params.seed, steps, self._weights.shape.codebooks)
        # By the fullest method, whatever the parameters: it draws the same, and graphs would triple.
        drawn = sample(guided, params, noise, Method.TOP_P)  # [B, K]
        self._write(lanes, drawn)
        lanes.position.add_(lanes.slot != self._nobody)

    def _logits(self, lanes: _Lanes, shape: StepShape) -> torch.Tensor:
        """[B, K, card] float32 of the positions after those fed."""
        model = self._weights.shape
        x = self._embedded(lanes)  # [B, D]
        mask = self._mask(lanes.position + 1, shape.length)
        text_mask = self._mask(lanes.text.clamp(min=1), shape.text)  # one key at least, or softmax has nothing to share
        for index, layer in enumerate(self._weights.layers):
            x = x + layer.out_self(self._attended(index, layer.qkv(layer.norm_self(x)), lanes, mask))
            if shape.text:
                x = x + self._crossed(index, layer, x, lanes, text_mask)
            x = x + layer.down(layer.activation(layer.up(layer.norm_ff(x))))
        made = self._weights.heads(self._weights.norm_out(x))  # [B, K card]
        return made.float().view(-1, model.codebooks, model.card)

    def _embedded(self, lanes: _Lanes) -> torch.Tensor:
        tables = self._weights.embeddings
        tokens = self.sequences[lanes.slot, :, lanes.position]  # [B, K]
        x = F.embedding(tokens[:, 0], tables[0])
        for codebook in range(1, self._weights.shape.codebooks):  # in audiocraft's order
            x = x + F.embedding(tokens[:, codebook], tables[codebook])
        return x + self._position_table.index_select(0, lanes.position)

    def _mask(self, lengths: torch.Tensor, bucket: int) -> torch.Tensor:
        """[B, 1, 1, bucket] to be added: 0 below each row's length, minus infinity from there on."""
        hidden = torch.arange(bucket, device=lengths.device) >= lengths[:, None]  # [B, bucket]
        mask = torch.zeros(hidden.shape, dtype=self._cache[0][0].dtype, device=lengths.device)
        return mask.masked_fill_(hidden, float("-inf"))[:, None, None]

    def _attended(self, index: int, qkv: torch.Tensor, lanes: _Lanes, mask: torch.Tensor) -> torch.Tensor:
        """[B, 3 D] -> [B, D]: the new keys and values are written, then each lane attends to its own past."""
        model, (keys, values) = self._weights.shape, self._cache[index]
        rows, length = qkv.shape[0], mask.shape[-1]
        query, key, value = qkv.to(keys.dtype).view(rows, 3, model.heads, model.head_width).unbind(1)  # [B, H, D / H]
        lane = torch.arange(rows, device=qkv.device)
        keys[lane, :, lanes.position] = key
        values[lane, :, lanes.position] = value
        made = F.scaled_dot_product_attention(
            query[:, :, None], keys[:rows, :, :length], values[:rows, :, :length], attn_mask=mask
        )  # [B, H, 1, D / H]
        return made.flatten(1).to(qkv.dtype)

    def _crossed(
        self, index: int, layer: LayerWeights, x: torch.Tensor, lanes: _Lanes, mask: torch.Tensor
    ) -> torch.Tensor:
        """[B, D] -> [B, D], exactly zero for lanes of the null condition."""
        model, (keys, values) = self._weights.shape, self._text[index]
        rows, length = x.shape[0], mask.shape[-1]
        query = layer.query_cross(layer.norm_cross(x)).to(keys.dtype).view(rows, model.heads, 1, model.head_width)
        made = F.scaled_dot_product_attention(
            query, keys[:rows, :, :length], values[:rows, :, :length], attn_mask=mask
        )  # [B, H, 1, D / H]
        told = torch.where(lanes.text[:, None] > 0, made.flatten(1), 0.0)  # [B, D]
        return layer.out_cross(told.to(x.dtype))

    def _write(self, lanes: _Lanes, drawn: torch.Tensor) -> None:
        """What was drawn takes the place of UNKNOWN alone: prompt and special tokens stay, and nobody's slot."""
        position = (lanes.position + 1).clamp(max=self._window - 1)
        before = self.sequences[lanes.into, :, position]  # [B, K]
        self.sequences[lanes.into, :, position] = torch.where(before == UNKNOWN, drawn, before)


def _text_length(cross: CrossCache | None) -> int:
    return cross.keys[0].shape[2] if cross is not None else 0


def _successor(work: SlotWork) -> SlotWork:
    return SlotWork(work.slot, work.rows, work.start + 1, 1, samples=True)
