"""The bytes behind single tokens, which decoding a token by itself may lose."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenText:
    """Tells what single tokens stand for. One character may take several tokens, so: in bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, token_id: int) -> bytes:
        """What the token adds to the text. A special token stands for its name."""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # models may have more rows than their tokenizer has tokens
            return b""
        if token_id in self._added_ids:
            return str(token).encode()
        if "ByteLevel" in self._decoders and self._byte_of_char.keys() >= set(token):
            return bytes(self._byte_of_char[char] for char in token)
        if "ByteFallback" in self._decoders and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(match[1])
        if "ByteFallback" in self._decoders or "Metaspace" in self._decoders:
            return str(token).replace("▁", " ").encode()
        return str(self._tokenizer.decode([token_id])).encode()

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.added_tokens_decoder)

    @cached_property
    def _decoders(self) -> frozenset[str]:
        """The kinds of decoding steps, as in a tokenizer.json."""
        decoder = self._tokenizer.backend_tokenizer.decoder
        if decoder is None:
            return frozenset()
        description = json.loads(decoder.__getstate__())
        steps = description.get("decoders", [description])
        return frozenset(step["type"] for step in steps)

    @cached_property
    def _byte_of_char(self) -> dict[str, int]:
        """The byte that each character of a byte-level token stands for.

        Printable bytes of Latin-1 stand for themselves, the others are numbered from U+0100.
        """
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(0x100) if byte not in printable]
        return {chr(byte): byte for byte in printable} | {
            chr(0x100 + i): byte for i, byte in enumerate(others)
        }
