"""Names of descriptions; needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(spec: Mapping[str, Any]) -> str:
    """Name of a description: equal words in any order, equal name."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
