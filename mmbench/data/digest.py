"""Names of descriptions; needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(words: Mapping[str, Any]) -> str:
    """Name of a description: equal words in any order, equal name."""
    text = json.dumps(words, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
