"""Second half of the stage: of duplicates the best is kept, some images are held out, the files are written.

    blocks ──keys, hashes, groups──► kept? ──► held out? ──► train/part-*.parquet, with augmented copies (in tasks)
                                                        └──► held_out/part-*.parquet, rejected.jsonl

The driver loads columns without images and texts; tasks copy images from block to file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import AtomicFile, Block, deal
from pipelines.data.corpus import splitting
from pipelines.data.corpus.corpora import SPLITS
from pipelines.data.images import hashing
from pipelines.data.images.documents import IMAGE_DOCUMENTS
from pipelines.data.images.pictures import augment
from pipelines.data.images.transforms import Augmentation, mentions_sides
from pipelines.data.sources.bad_rows import RejectedRows
from pipelines.data.sources.source import Part
from pipelines.errors import UserError
from pipelines.parallel import make_files
from pipelines.stage import Facts, Work
from pipelines.stages.images.blocks import WRITE_BYTES, ReadBlocks
from pipelines.stages.images.options import AugmentOptions

TRAIN, HELD_OUT = SPLITS
INDEX_COLUMNS = ["id", "source", "group", "language", "phash", "where", "row", "key", "original_pixels", "text_bytes",
                 "image_bytes", "changes"]  # fmt: skip


@dataclass(frozen=True)
class ImageIndex:
    """All images of all blocks in order, without their files and texts."""

    table: pa.Table
    starts: np.ndarray  # int64[blocks + 1]: images of block b are [starts[b], starts[b + 1])

    def numbers(self, column: str) -> np.ndarray:
        """A column of numbers."""
        return self.table.column(column).to_numpy()

    def texts(self, column: str) -> list[str]:
        """A column of texts."""
        return self.table.column(column).to_pylist()


def finish(work: Work, read: ReadBlocks) -> Facts:
    """Writes the images into work.draft.out and returns the facts. Raises UserError if no image is left."""
    index = _load_index(read.blocks)
    if not index.table.num_rows:
        raise UserError(_no_images(work, read.rejected))
    work.progress.note("looking for duplicates")
    instead = kept_instead(index, work.options.near_duplicate_bits)
    _reject_duplicates(index, instead, read.rejected)
    kept = instead == np.arange(len(instead))
    held_out = _choose_held_out(index, kept, fraction=work.options.held_out, seed=work.seed)
    train, copies = kept & ~held_out, work.options.augment.copies
    _write_split(work, read.blocks, index, train, work.draft.out / TRAIN, copies)
    _write_split(work, read.blocks, index, held_out, work.draft.out / HELD_OUT, copies=0)
    read.rejected.write()
    facts: Facts = {"images/train": int(train.sum()), "images/held_out": int(held_out.sum())}
    facts["images/augmented"] = int(train.sum()) * copies
    facts["images/bytes"] = int(index.numbers("image_bytes")[kept].sum())
    facts |= _change_facts(index, kept)
    if read.rows_per_s is not None:
        facts["images/rows_per_s"] = read.rows_per_s
    return facts | read.rejected.facts("images")


def _change_facts(index: ImageIndex, kept: np.ndarray) -> Facts:
    """Numbers of kept images that were changed, by change: images/resampled, images/oriented, …"""
    changes = index.table.column("changes").filter(pa.array(kept)).to_pylist()
    counts = Counter(change for image in changes for change in image)
    return {f"images/{change}": number for change, number in sorted(counts.items())}


def kept_instead(index: ImageIndex, max_distance: int | None) -> np.ndarray:
    """Returns int64[images]: the image that is kept in the place of each; itself where it is kept.

    Of equal files, and of images with similar hashes, the one with most pixels is kept; of equally large ones that with
    the longest caption, then the first. max_distance: bits; None: equal files only."""
    order = np.lexsort((-index.numbers("text_bytes"), -index.numbers("original_pixels")))  # stable: then the first
    keys, first = index.table.column("key").to_pylist(), dict[bytes, int]()
    instead = np.arange(len(order))
    for image in order.tolist():
        instead[image] = first.setdefault(keys[image], image)
    if max_distance is not None:
        unique = order[instead[order] == order]
        instead[unique] = unique[hashing.near_duplicates(index.numbers("phash")[unique], max_distance)]
    return instead[instead]  # an equal file's place may have been taken by a similar one


def _reject_duplicates(index: ImageIndex, instead: np.ndarray, rejected: RejectedRows) -> None:
    ids, keys, hashes = index.texts("id"), index.table.column("key").to_pylist(), index.numbers("phash")
    for image in np.flatnonzero(instead != np.arange(len(instead))):
        row, other = index.table.slice(int(image), 1).to_pylist()[0], int(instead[image])
        if keys[image] == keys[other]:
            reason, problem = "duplicate", f"the same file as {ids[other]}, which is kept"
        else:
            bits = hashing.distance(int(hashes[image]), int(hashes[other]))
            reason = "near_duplicate"
            problem = f"looks like {ids[other]}, which is kept ({bits} of {hashing.NUM_BITS} bits of the hashes differ)"
        part = Part(index=0, where=row["where"], group="")
        rejected.add(row["source"], part, row["row"], reason, problem, row["id"], by_rule=True)


def _load_index(blocks: list[Block]) -> ImageIndex:
    tables = [pq.read_table(block.file, columns=INDEX_COLUMNS) for block in blocks]
    starts = np.concatenate([[0], np.cumsum([table.num_rows for table in tables])])
    return ImageIndex(pa.concat_tables(tables), starts)


def _choose_held_out(index: ImageIndex, kept: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Returns bool[images]: the kept images that are held out, in whole groups of each language."""
    images = np.flatnonzero(kept)
    ids, sources, groups, languages = map(index.texts, ("id", "source", "group", "language"))
    chosen = splitting.held_out_mask(
        [ids[image] for image in images],
        [f"{sources[image]}/{groups[image]}" for image in images],
        [languages[image] for image in images],
        [1] * len(images),
        fraction=fraction,
        seed=seed,
    )
    held_out = np.zeros(len(kept), np.bool_)
    held_out[images[chosen]] = True
    return held_out


def _write_split(
    work: Work, blocks: list[Block], index: ImageIndex, chosen: np.ndarray, folder: Path, copies: int
) -> None:
    """Writes the chosen images, adding blocks to a file until it is full; one task writes each file.

    Files that an earlier attempt has finished are kept: the same blocks give the same files."""
    sizes = index.numbers("image_bytes") * (1 + copies)
    parts: list[tuple[tuple[str, bytes], int]] = []
    for number, block in enumerate(blocks):
        rows = np.flatnonzero(chosen[index.starts[number] : index.starts[number + 1]])
        if len(rows):
            num_bytes = int(sizes[index.starts[number] + rows].sum())
            parts.append(((str(block.file), rows.astype(np.int64).tobytes()), num_bytes))
    items = [
        {
            "path": str(folder / f"part-{number:05}.parquet"),
            "files": [file for file, _ in part],
            "rows": [rows for _, rows in part],
        }
        for number, part in enumerate(deal(parts, work.options.part_bytes) or [[]])
    ]
    make_files(
        work,
        write_part,
        items,
        unit=f"files of {folder.name}",
        augment_options=work.options.augment,
        copies=copies,
        seed=work.seed,
    )


def write_part(item: dict[str, Any], *, augment_options: AugmentOptions, copies: int, seed: int) -> None:
    """Writes one file of images, each followed by its augmented copies. Runs in a task.

    item: {"path": of the file, "files": those of its blocks, "rows": int64 bytes, the row numbers in each block}."""
    options = augment_options
    how = Augmentation(flip=options.flip, crop=options.crop, colour=options.colour, rotate=options.rotate)
    documents: list[dict[str, Any]] = []
    num_bytes = 0
    with AtomicFile(Path(item["path"])) as file:
        with pq.ParquetWriter(file.temporary, IMAGE_DOCUMENTS, compression="zstd") as writer:
            for name, row_bytes in zip(item["files"], item["rows"], strict=True):
                for document in _rows(Path(name), np.frombuffer(row_bytes, np.int64)):
                    documents.append(document)
                    documents += [_copy(document, how, number, seed) for number in range(1, copies + 1)]
                    num_bytes += len(document["image"]) * (1 + copies)
                    if num_bytes > WRITE_BYTES:
                        writer.write_table(pa.Table.from_pylist(documents, IMAGE_DOCUMENTS))
                        documents, num_bytes = [], 0
            writer.write_table(pa.Table.from_pylist(documents, IMAGE_DOCUMENTS))
        file.publish()


def _rows(file: Path, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """Reads these rows of a block, one row group in memory at a time."""
    with pq.ParquetFile(file) as block:
        start = 0
        for group in range(block.num_row_groups):
            stop = start + block.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < stop)]
            if len(inside):
                table = block.read_row_group(group, columns=IMAGE_DOCUMENTS.names, use_threads=False)
                yield from table.take(pa.array(inside - start)).to_pylist()
            start = stop


def _copy(document: dict[str, Any], how: Augmentation, number: int, seed: int) -> dict[str, Any]:
    """A changed copy of a document's image, with the same caption."""
    flip = how.flip and not mentions_sides(document["text"])
    id = f"{document['id']}/augmented-{number}"
    image, width, height = augment(document["image"], replace(how, flip=flip), key=f"{seed}/{id}")
    return {**document, "id": id, "image": image, "width": width, "height": height, "augmented_from": document["id"]}


def _no_images(work: Work, rejected: RejectedRows) -> str:
    reasons: Counter[str] = rejected.reasons
    counts = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items())) or "none was set aside"
    rejected.write()
    return (
        f"{work.name}: no image is left of {rejected.limit.num_rows.total():,} rows read ({counts}); "
        f"see {rejected.file}; check the sources' paths and captions, or loosen the options of {work.name}"
    )
