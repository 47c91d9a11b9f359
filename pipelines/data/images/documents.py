"""The schema of a corpus with images: a document of text, its caption, and beside it the image.

Its first columns are those of any corpus, so whatever reads text reads the captions and never loads an image.
"""

from __future__ import annotations

import pyarrow as pa

from pipelines.data.corpus.documents import DOCUMENTS

IMAGE_DOCUMENTS = pa.schema(
    [
        *DOCUMENTS,
        ("image", pa.binary()),  # a JPEG, PNG, … file: the original where nothing was changed
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("phash", pa.uint64()),  # perceptual hash of the image before denoising and augmentation
        ("augmented_from", pa.string()),  # id of the document of which this is a changed copy; null: an original
    ]
)
