"""Attention of packed rows, document by document: never a mask of T × T for a row.

    positions [B, T] ──► Documents ──every layer──► causal attention within each document
                                                    GPU, 16 bits: one varlen kernel (Dao 2023, FlashAttention-2)
                                                    otherwise: one scaled_dot_product_attention for all documents
                                                    of about the same length, padded at their ends; short ones on
                                                    a CPU in blocks of queries

Soft-capped scores, and windows shorter than a document where there is no kernel, take a square of that document.

`Documents` travels through transformers' models as a keyword argument, so that it is made once a forward pass. A model
that does not hand it to each of its layers, such as a state-space model, would mix documents: `last_hidden` (model.py)
refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from pipelines.errors import UserError

NAME = "documents"  # transformers' attn_implementation
MAX_PADDED = 512  # tokens; the work of padding a longer document is worth more than a call less
# On a CPU documents of up to so many tokens are attended to in blocks of queries, in float32 whatever the model's type:
# torch's kernels compute much of what is masked, and small products in 16 bits take 2 to 5 times as long backwards.
MAX_IN_BLOCKS, BLOCK_QUERIES = 512, 64


Prefix = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [K, P, C] of each layer that every document attends to as if they stood in front of it, already
rotated: K key-value heads, P positions, C columns (Li and Liang 2021, prefix tuning)."""


@dataclass
class Documents:
    """Where the documents of a batch begin in its flat B × T, and where the last one ends: ascending, from 0."""

    edges: list[int]
    rows: int
    prefix: Prefix | None = None
    num_attended: int = 0  # attention layers that have used it
    _edges: Tensor | None = None
    _groups: Groups | None = None

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(end - begin for begin, end in pairwise(self.edges))

    def edges_on(self, device: torch.device) -> Tensor:
        """The edges on a device, made once for all layers of a forward pass. int32."""
        if self._edges is None:
            self._edges = torch.tensor(self.edges, dtype=torch.int32, device=device)
        return self._edges

    @classmethod
    def of(cls, positions_BT: Tensor) -> Documents:
        """positions_BT: of each token in its document, from 0; padding: 0. A run of zeros is one document: the tokens
        of padding, and of documents of one token, have no successor to predict."""
        is_first_BT = positions_BT == 0
        continues_BT = F.pad(positions_BT[:, 1:] == 1, (0, 1))
        follows_text_BT = F.pad(positions_BT[:, :-1] != 0, (1, 0), value=True)
        begins_BT = is_first_BT & (continues_BT | follows_text_BT)
        begins_BT[:, 0] = True  # where a row was cut the positions of its first document may go on
        return cls([*begins_BT.flatten().nonzero().flatten().tolist(), positions_BT.numel()], len(positions_BT))

    @classmethod
    def whole_rows(cls, tokens_BT: Tensor) -> Documents:
        """Each row is one document."""
        rows, length = tokens_BT.shape
        return cls([length * row for row in range(rows + 1)], rows)

    @property
    def are_rows(self) -> bool:
        """Whether each row is one document."""
        return len(self.edges) == self.rows + 1

    def groups_on(self, device: torch.device) -> Groups:
        """Documents that are attended to at once, made once for all layers of a forward pass."""
        if self._groups is None:
            self._groups = Groups.of(self.edges).to(device)
        return self._groups


@dataclass
class Groups:
    """Documents by length. Those of a group are padded to its width at their ends, where a causal document never looks.

    shapes: documents and width of each group, D × W; all groups end to end have M tokens."""

    shapes: list[tuple[int, int]]
    source_M: Tensor  # which of the N tokens of the batch each one is; for padding, the last one of its document
    place_N: Tensor  # where among the M each token of the batch is
    padding: Tensor  # which of the M are padding

    @classmethod
    def of(cls, edges: list[int]) -> Groups:
        """Groups of the documents between these edges."""
        begins, lengths = torch.tensor(edges[:-1]), torch.tensor(edges).diff()
        widths = torch.tensor([padded_length(length) for length in lengths.tolist()])
        shapes, sources, paddings = [], [], []
        for width in widths.unique().tolist():
            members = (widths == width).nonzero().flatten()
            column_W = torch.arange(width)
            sources.append(begins[members, None] + torch.minimum(column_W, lengths[members, None] - 1))
            paddings.append(column_W >= lengths[members, None])
            shapes.append((len(members), width))
        source_M, is_padding_M = (torch.cat([part.flatten() for part in parts]) for parts in (sources, paddings))
        place_N = torch.empty(edges[-1], dtype=torch.int64)
        real = (~is_padding_M).nonzero().flatten()
        place_N[source_M[real]] = real
        return cls(shapes, source_M, place_N, is_padding_M.nonzero().flatten())

    def to(self, device: torch.device) -> Groups:
        return Groups(self.shapes, *(each.to(device) for each in (self.source_M, self.place_N, self.padding)))


def padded_length(length: int) -> int:
    """A document's length in its group: of two steps an octave up to 512 tokens, exact beyond."""
    if length > MAX_PADDED:
        return length
    step = max(16, 2 ** (length.bit_length() - 2))
    return -(-length // step) * step


class _Rearranged(torch.autograd.Function):
    """Rows of x at an index, whose gradient is gathered too: row n of x comes from row inverse[n] of the result's.

    unused: rows of x that the index leaves out, which get no gradient. index_select's own backward pass would add
    row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, unused: Tensor | None) -> Tensor:
        ctx.inverse, ctx.unused = inverse, unused
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        gradient = grad_outputs[0].index_select(0, ctx.inverse)
        if ctx.unused is not None:
            gradient.index_fill_(0, ctx.unused, 0.0)
        return gradient, None, None, None


def document_attention(
    module: Any,
    query_BATC: Tensor,
    key_BKTC: Tensor,
    value_BKTC: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document, for transformers' AttentionInterface. Returns [B, T, A, C].

    A query heads, K key-value heads, C columns of a head. documents: None: each row is one. softcap: scores are
    cap · tanh(scores / cap)."""
    if attention_mask is not None or key_BKTC.shape[2] != query_BATC.shape[2]:
        raise ValueError("attention of packed rows takes neither a mask nor a cache; for anything else call "
                         "model.set_attn_implementation('sdpa')")  # fmt: skip
    if s_aux is not None:
        raise UserError(f"{type(module).__name__}: attention with sinks is not computed here; choose another base")
    documents = documents or Documents.whole_rows(query_BATC[:, 0, :, 0])
    documents.num_attended += 1
    heads = (query_BATC, key_BKTC, value_BKTC)
    prefix = None if documents.prefix is None else documents.prefix[module.layer_idx]
    if _has_varlen_kernel(query_BATC) and softcap is None and not dropout and prefix is None:
        flat = [each.transpose(1, 2).flatten(0, 1) for each in heads]  # [B·T, heads, C]
        return _varlen(flat, documents, scaling, sliding_window).unflatten(0, (documents.rows, -1)), None
    attend = partial(
        _attend, scaling=scaling, dropout=dropout, sliding_window=sliding_window, softcap=softcap, prefix=prefix
    )
    if documents.are_rows:
        return attend(heads).transpose(1, 2), None
    return _by_groups(heads, documents, attend), None


def _by_groups(heads: Sequence[Tensor], documents: Documents, attend: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """Attention of all documents, group by group [B, T, A, C]. heads: queries, keys and values
    [B, heads, T, C]; attend: attention of documents of one length."""
    groups = documents.groups_on(heads[0].device)
    source, place = groups.source_M, groups.place_N
    # Padding's part of these gradients is zero, since nothing that is kept attends to it.
    flat = (each.transpose(1, 2).flatten(0, 1) for each in heads)
    grouped = [cast(Tensor, _Rearranged.apply(each, source, place, None)) for each in flat]  # [M, heads, C]
    parts, begin = [], 0
    for count, width in groups.shapes:
        members = [each[begin : begin + count * width].unflatten(0, (count, width)).transpose(1, 2) for each in grouped]
        parts.append(attend(members).transpose(1, 2).flatten(0, 1))
        begin += count * width
    out_NAC = cast(Tensor, _Rearranged.apply(torch.cat(parts), place, source, groups.padding))
    return out_NAC.unflatten(0, (documents.rows, -1))


def _has_varlen_kernel(query_BATC: Tensor) -> bool:
    """Flash attention is for 16 bits on a GPU, and heads of up to 256 columns."""
    columns = query_BATC.shape[-1]
    return query_BATC.is_cuda and query_BATC.dtype != torch.float32 and columns <= 256 and columns % 8 == 0


def _varlen(flat: list[Tensor], documents: Documents, scaling: float | None, sliding_window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    edges, longest = documents.edges_on(flat[0].device), documents.longest
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    query, key, value = flat
    out = varlen_attn(
        query, key, value, edges, edges, longest, longest, scale=scaling, window_size=window, enable_gqa=True
    )
    assert isinstance(out, Tensor)
    return out


def _attend(
    parts: Sequence[Tensor], scaling: float | None, dropout: float, sliding_window: int | None, softcap: float | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """Causal attention of documents of one length [B, A, T, C]; parts: queries, keys and values."""
    query_BATC, key_BKTC, value_BKTC = parts
    if prefix is not None:
        key_BKTC, value_BKTC = (
            torch.cat([before_KPC.expand(len(part), -1, -1, -1), part], 2)
            for before_KPC, part in zip(prefix, (key_BKTC, value_BKTC), strict=True)
        )
    tokens, visible, grouped = query_BATC.shape[2], key_BKTC.shape[2], query_BATC.shape[1] != key_BKTC.shape[1]
    mask_TT = None  # T rows, and P columns more than T where there is a prefix
    if softcap is not None or prefix is not None or (sliding_window and tokens > sliding_window):
        place = torch.arange(visible, device=query_BATC.device)
        distance_TT = place[visible - tokens :, None] - place
        mask_TT = (distance_TT >= 0) & (distance_TT < (sliding_window or visible))
    if softcap is not None:
        assert mask_TT is not None
        return _capped(query_BATC, key_BKTC, value_BKTC, mask_TT, scaling, dropout, softcap)
    if mask_TT is None and not query_BATC.is_cuda and tokens <= MAX_IN_BLOCKS:
        return _in_blocks(parts, scaling, dropout, grouped)
    return F.scaled_dot_product_attention(
        query_BATC, key_BKTC, value_BKTC, attn_mask=mask_TT, is_causal=mask_TT is None, scale=scaling,
        dropout_p=dropout, enable_gqa=grouped,
    )  # fmt: skip


def _in_blocks(parts: Sequence[Tensor], scaling: float | None, dropout: float, grouped: bool) -> Tensor:
    """Causal attention of documents of one length, BLOCK_QUERIES queries at a time: keys after them are left out."""
    query_BATC, key_BKTC, value_BKTC = (part.float() if part.itemsize == 2 else part for part in parts)
    attend = partial(F.scaled_dot_product_attention, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
    tokens, blocks = query_BATC.shape[2], []
    for begin in range(0, tokens, BLOCK_QUERIES):
        end = min(begin + BLOCK_QUERIES, tokens)
        query, key, value = query_BATC[:, :, begin:end], key_BKTC[:, :, :end], value_BKTC[:, :, :end]
        mask_TT = torch.ones(end - begin, end, dtype=torch.bool, device=query.device).tril(begin) if begin else None
        blocks.append(attend(query, key, value, attn_mask=mask_TT, is_causal=mask_TT is None))
    return torch.cat(blocks, 2).to(parts[0].dtype)


def _capped(
    query_BATC: Tensor, key_BKTC: Tensor, value_BKTC: Tensor, mask_TT: Tensor, scaling: float | None, dropout: float,
    softcap: float,
) -> Tensor:  # fmt: skip
    """Attention with soft-capped scores (Gemma Team 2024, Gemma 2, section 2), which no fused kernel of torch has."""
    repeats = query_BATC.shape[1] // key_BKTC.shape[1]
    key_BATC, value_BATC = (part.repeat_interleave(repeats, 1) for part in (key_BKTC, value_BKTC))
    scores_BATT = query_BATC @ key_BATC.transpose(2, 3) * (query_BATC.shape[-1] ** -0.5 if scaling is None else scaling)
    scores_BATT = (softcap * torch.tanh(scores_BATT / softcap)).masked_fill(~mask_TT, -torch.inf)
    weights_BATT = F.dropout(scores_BATT.softmax(-1, dtype=torch.float32).to(query_BATC.dtype), dropout)
    return weights_BATT @ value_BATC


def _no_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> None:
    """transformers' mask for this implementation: none. A padding mask would be lost, so it is refused."""
    if attention_mask is not None and not attention_mask.all():
        raise ValueError("a padding mask; expected packed rows, whose positions keep documents apart")


def keep_out_of_graphs() -> None:
    """Leaves attention out of what torch.compile compiles from now on: its documents are other ones in every batch."""
    AttentionInterface.register(NAME, torch.compiler.disable(document_attention))


AttentionInterface.register(NAME, document_attention)
AttentionMaskInterface.register(NAME, _no_mask)
