"""The kinds of source that a recipe may name. A new one is a file here and a line in SOURCES."""

from pipelines.data.sources.chinese import Chinese
from pipelines.data.sources.csv import Csv
from pipelines.data.sources.docstrings import Docstrings
from pipelines.data.sources.images import Images
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.source import Source
from pipelines.data.sources.text import Text

SOURCES: dict[str, type[Source]] = {
    "docstrings": Docstrings,
    "chinese": Chinese,
    "text": Text,
    "jsonl": Jsonl,
    "parquet": Parquet,
    "csv": Csv,
    "images": Images,
}
