"""What may be the id of a repository on the Hugging Face Hub, and what is rather a mistyped path."""

from __future__ import annotations

import re
from pathlib import Path


def is_hub_id(text: str) -> bool:
    """Whether a text reads ``owner/name``, and no folder ``owner`` here makes it a path."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None and not Path(text).parent.is_dir()
