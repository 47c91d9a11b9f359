"""Files that no kind of source reads: what they are, and what to do with them.

By suffix it is a guess for messages, which decides nothing on what is read.
"""

from __future__ import annotations

from pathlib import Path

FORMS: tuple[tuple[str, str, str], ...] = (  # suffixes, what the file is, what to do
    (".xlsx .xlsm .xlsb .xls .ods .numbers", "a spreadsheet", "save each sheet as CSV"),
    (".doc .odt .rtf .pages .wps", "a document of a word processor", "save it as .docx"),
    (".pptx .ppt .odp .key", "slides", "export them as PDF"),
    (".mobi .azw .azw3 .fb2 .djvu", "an electronic book", "convert it to EPUB (ebook-convert of Calibre)"),
    (".ipynb", "a notebook", "convert it to Markdown (jupyter nbconvert --to markdown)"),
    (".zip .7z .rar", "an archive", "unpack it and name the folder"),
    (".sqlite .sqlite3 .db .mdb", "a database", "export its tables as CSV or JSON lines"),
    (".orc .avro", "a table of another format", "save it as Parquet"),
    (".pkl .pickle .npy .npz .h5 .pt .pth", "data of a program", "save its rows as JSON lines or Parquet"),
    (".mp3 .wav .flac .ogg .m4a .mp4 .mkv .mov .webm .avi", "sound or film", "write down what is said as text"),
    (".heic .svg .psd", "an image of another format", "save it as JPEG or PNG"),
)
EMPTY = "the file is empty; expected at least one row"
POINTER = b"version https://git-lfs.github.com/spec/v1"  # with which Git LFS begins what stands for a file
TEXT_FORMS = (".rtf", ".ipynb", ".fb2", ".svg")  # text by their content, which is no text to learn


def remedy(path: Path) -> str | None:
    """What a file is by its suffix, and what to do with it; None for a suffix that is not known here.

    >>> remedy(Path("prices.XLSX"))
    'a spreadsheet, which is not read: save each sheet as CSV'
    """
    suffix = path.suffix.lower()
    return next(
        (f"{form}, which is not read: {advice}" for suffixes, form, advice in FORMS if suffix in suffixes.split()), None
    )


def without_content(file: Path) -> str | None:
    """What is wrong with a file that is empty, or has only the name of its content; None for any other."""
    if file.stat().st_size == 0:
        return EMPTY
    with file.open("rb") as stream:
        is_pointer = stream.read(len(POINTER)) == POINTER
    return "a pointer of Git LFS in place of the file; expected its content: git lfs pull" if is_pointer else None
