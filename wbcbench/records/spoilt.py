"""What readers raise on spoiled bytes; caught where a file that a stranger may have written is read."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib

ARRAYS = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, OSError, EOFError, ValueError,
    KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError, RuntimeError, SystemError,
    MemoryError,
)  # fmt: skip
"""Of `numpy.load` and `zipfile`: an array's header is parsed as a Python literal, and its dtype built from it."""

DOCUMENTS = (ValueError, RecursionError)
"""Of `json.loads`: no JSON, no UTF-8, too long a number, nested too deeply. Pydantic's errors are ValueErrors."""

__all__ = ["ARRAYS", "DOCUMENTS"]
