"""The JavaScript that the page carries with it, as Python packages ship it, and leave for that alone to run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path


@cache
def tables() -> str:
    """DataTables with its extensions, as itables ships it for pages without a network (1 MB)."""
    import itables
    from itables.javascript import generate_init_offline_itables_html

    bundle = Path(itables.__file__).parent / "html" / "dt_bundle.js"
    html = generate_init_offline_itables_html(bundle)
    return str(html[: html.index("</script>")].removeprefix("<script>"))


@cache
def plotly() -> str:
    """The only bundle that plotly's Python package ships (5 MB)."""
    from plotly.offline import get_plotlyjs

    # A carriage return would not survive an HTML parser, and the policy's digest would not fit.
    return str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n").replace("\r", "\n")


def asset(name: str) -> str:
    """A file beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def policy(scripts: Iterable[str]) -> str:
    """Content-Security-Policy: no network, and no script but these, by their digests.

    An event handler or script that a stranger managed to write into the page would not run. `blob:` is how itables
    loads its module; styles are inline because both libraries write them.
    """
    found = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    digests = " ".join(f"'sha256-{d}'" for d in found)
    return (
        f"default-src 'none'; script-src {digests} blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )


__all__ = ["asset", "plotly", "policy", "tables"]
