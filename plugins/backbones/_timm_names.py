"""Names of timm's models, read from its source: importing timm takes seconds and needs torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path

_DECORATED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)


@lru_cache(maxsize=1)
def timm_model_names() -> list[str]:
    """Every name that `timm.create_model` accepts, sorted; empty if timm is not installed.

    Cached per timm version, because reading 100 files takes longer than `wbcbench show` should.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    cache = _cache_file()
    try:
        names: list[str] = json.loads(cache.read_text(encoding="utf-8"))
        if names and all(isinstance(n, str) for n in names):
            return names
    except (OSError, ValueError, TypeError):
        pass
    found: set[str] = set()
    for path in folder.glob("*.py"):
        found.update(_DECORATED.findall(path.read_text(encoding="utf-8")))
    names = sorted(found)
    _write(cache, json.dumps(names))
    return names


def _cache_file() -> Path:
    folder = os.environ.get("WBCBENCH_CACHE")
    if folder is None:
        from platformdirs import user_cache_dir

        folder = user_cache_dir("wbcbench")
    return Path(folder) / f"timm-names-{importlib.metadata.version('timm')}.json"


def _write(path: Path, text: str) -> None:
    """Write atomically; a cache that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError:
        return
