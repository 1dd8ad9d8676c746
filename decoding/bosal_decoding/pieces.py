"""How the pieces of a tokenizer's vocabulary spell bytes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bosal_decoding.errors import UnsupportedTokenizer

_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def speller(config: Mapping[str, Any], added: Mapping[int, str]) -> Callable[[int, str], bytes]:
    """Return how this tokenizer's pieces become bytes, judged by its decoder."""
    steps = _steps(config["decoder"])
    kinds = {step["type"] for step in steps}
    if kinds <= {"ByteLevel", "Fuse"} and "ByteLevel" in kinds:
        alphabet = byte_alphabet()

        def spell_byte_level(token: int, piece: str) -> bytes:
            if token in added:
                return added[token].encode()
            if all(char in alphabet for char in piece):
                return bytes(alphabet[char] for char in piece)
            return piece.encode()

        return spell_byte_level

    space = _space_marker(steps)
    if space is not None and kinds <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}:
        has_byte_pieces = "ByteFallback" in kinds or bool(config["model"].get("byte_fallback"))

        def spell_space_marked(token: int, piece: str) -> bytes:
            match = _BYTE_PIECE.fullmatch(piece) if has_byte_pieces else None
            if match is not None:
                return bytes([int(match[1], 16)])
            return piece.replace(space, " ").encode()

        return spell_space_marked
    names = ", ".join(step["type"] for step in steps) or "none"
    raise UnsupportedTokenizer(
        config["model"]["type"],
        f"its tokens are not known as bytes (decoder: {names}); "
        "byte-level and SentencePiece-like tokenizers are",
    )


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, from character to byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


def _steps(component: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Flatten a decoder of the tokenizers library into its steps."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [step for part in component["decoders"] for step in _steps(part)]
    return [component]


def _space_marker(steps: Sequence[Mapping[str, Any]]) -> str | None:
    for step in steps:
        if step["type"] == "Metaspace":
            return str(step["replacement"])
        if step["type"] == "Replace" and step["content"] == " ":
            pattern = step["pattern"].get("String")
            return None if pattern is None else str(pattern)
    return None
