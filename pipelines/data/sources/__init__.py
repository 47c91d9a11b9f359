"""The kinds of source that a recipe may name. A new one is a file here and a line in SOURCES."""

from pipelines.data.sources.chinese import Chinese
from pipelines.data.sources.csv import Csv
from pipelines.data.sources.dataset import Dataset
from pipelines.data.sources.docstrings import Docstrings
from pipelines.data.sources.docx import Docx
from pipelines.data.sources.epub import Epub
from pipelines.data.sources.html import Html
from pipelines.data.sources.images import Images
from pipelines.data.sources.json import Json
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.pdf import Pdf
from pipelines.data.sources.source import Source
from pipelines.data.sources.text import Text
from pipelines.data.sources.warc import Warc

SOURCES: dict[str, type[Source]] = {
    "docstrings": Docstrings,
    "chinese": Chinese,
    "text": Text,
    "jsonl": Jsonl,
    "json": Json,
    "parquet": Parquet,
    "csv": Csv,
    "html": Html,
    "warc": Warc,
    "pdf": Pdf,
    "docx": Docx,
    "epub": Epub,
    "dataset": Dataset,
    "images": Images,
}
