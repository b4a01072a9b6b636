"""Pages of all components, made from their declarations when the site is built: nobody writes or forgets them."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from wbcbench.docs import component_page, index_page, kinds_and_components


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `components/index.md` and `components/<kind>/<name>.md`."""
    listed = kinds_and_components()
    pages: dict[str, str] = {"components/index.md": index_page(listed)}
    for kind, names in listed.items():
        pages |= {f"components/{kind}/{name}.md": component_page(kind, name) for name in names}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """mkdocstrings reads sources and imports nothing: it needs plugins/ under its installed name."""
    from pathlib import Path

    root = Path(config.config_file_path).parents[1]
    link = root / ".docs-packages" / "wbcbench_plugins"
    if not link.exists():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(root / "plugins", target_is_directory=True)
    return config
