"""Names that people chose, made safe for folders, Markdown and HTML; the original is kept in the metadata.

>>> folder_name(3, "../<script>")
'class_3_script'
"""

from __future__ import annotations

import html
import re
import unicodedata

MAX_SLUG = 40  # keeps a path far below the 255 bytes of file systems and the 100 of a tar member
# Hugging Face reads a folder of such a name as a split of the data set (datasets, data_files.py).
_SPLIT_WORDS = frozenset(
    ["train", "training", "valid", "validation", "dev", "val", "test", "testing", "eval", "evaluation"]
)


def folder_name(number: int, name: str) -> str:
    """Returns the folder of a class: its number, and what of its name is plain letters and digits.

    Args:
        number: The label, which alone makes the name unique; -1 for images without classes.
        name: The class name, any text.

    Returns:
        Lower-case ASCII of at most 60 characters, with no slash and no dot.
    """
    if number < 0:
        return "unlabelled"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = [word for word in re.split(r"[^a-z0-9]+", plain) if word]
    kept = [word for word in words if not _SPLIT_WORDS & set(re.split(r"\d+", word))]
    slug = "-".join(kept)[:MAX_SLUG].strip("-")
    return f"class_{number}_{slug}" if slug else f"class_{number}"


def inline(text: str) -> str:
    """Returns any text as one line that Markdown and HTML show as it is, in a table as well.

    Args:
        text: What a person wrote.

    Returns:
        One line; marks of HTML and Markdown are character references, and more than 200 characters are cut.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line if len(line) <= 200 else line[:199] + "…"
    escaped = html.escape(line).replace("://", "&#58;//")
    return re.sub(r"[\\`*_\[\]|]", lambda mark: f"&#{ord(mark[0])};", escaped)
