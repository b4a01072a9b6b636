"""Teacher assistants: a chain from the biggest teacher down to the student (Mirzadeh et al. 2020)."""

from __future__ import annotations

from wbcbench.contracts import Parameters, Routing, param


class Assistant(Routing):
    """Each route is taught by an assistant, which a bigger teacher has taught by the same distillers.

    List the teachers of a modality from the assistant up: `--teacher cellnet:width=20,cellnet:width=32`.
    Routes meet teachers as in `matched`. Born-again networks (Furlanello et al., ICML 2018) are the chain
    whose members all have the student's architecture.
    """

    name = "assistant"
    aliases = ("takd",)
    source = "Mirzadeh et al., AAAI 2020, arXiv 1902.03393; Furlanello et al., arXiv 1805.04770"
    pairing = "own"
    chain = True

    class Params(Parameters):
        fallback: str = param("", "Modality whose assistant serves routes without one; empty: the mean of all.")
