"""Where wbcbench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "WBCBENCH_CACHE"


def cache_root() -> Path:
    """The cache's folder: `$WBCBENCH_CACHE` if set, else the user's cache folder. Need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("wbcbench"))
