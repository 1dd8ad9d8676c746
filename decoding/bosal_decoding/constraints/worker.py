"""A process that compiles constraints on trial and validates texts, so that it can be killed.

Run as a file, so that it loads no more than it needs: `worker.py BYTES`. Reads one JSON object a
line from standard input and answers each with one line. What compiles here in time compiles in
the server.
"""

import json
import resource
import sys
from base64 import b64decode
from contextlib import suppress
from typing import Any


def main() -> None:
    limit = int(sys.argv[1])
    with suppress(ValueError, OSError):  # not every system bounds memory so
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compilers = _Compilers()
    for line in sys.stdin:
        try:
            answer = compilers.answer(json.loads(line))
        except MemoryError:
            answer = {"error": "out of memory"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class _Compilers:
    """The libraries, each imported when it is first needed."""

    def __init__(self) -> None:
        self._byte_tokenizer: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "start":
                # What every answer needs is read before the time of any is counted.
                match request.get("library"):
                    case "llguidance":
                        self._tokenizer()
                    case "jsonschema":
                        self._validate("true", "null")
                return {}
            case "compile":
                return self._compile(request["grammar"], request["limits"])
            case "outlines_core":
                return self._index(request["pattern"], request["tokens"])
            case "xgrammar":
                return self._grammar(request.get("recipe"), request.get("tokens"))
            case "validate":
                return self._validate(request["schema"], request["text"])
        raise ValueError(request["do"])

    def _compile(self, grammar: str, limits: dict[str, Any]) -> dict[str, Any]:
        from llguidance import LLMatcher, LLParserLimits

        matcher = LLMatcher(
            self._tokenizer(), grammar, log_level=0, limits=LLParserLimits(**limits)
        )
        if not matcher.is_error() and not matcher.is_stopped():
            matcher.compute_bitmask()
        return {"error": matcher.get_error()} if matcher.is_error() else {}

    def _tokenizer(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        if self._byte_tokenizer is None:
            self._byte_tokenizer = LLTokenizer(
                TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=256
            )
        return self._byte_tokenizer

    def _index(self, pattern: str, tokens: list[str]) -> dict[str, Any]:
        from outlines_core import Index, Vocabulary

        sentinel = "\U0010ffff".encode()
        ids: dict[bytes, list[int]] = {sentinel: [len(tokens)]}
        for token, spelled in enumerate(map(b64decode, tokens)):
            if spelled and sentinel not in spelled:
                ids.setdefault(spelled, []).append(token)
        index = Index(pattern, Vocabulary(len(tokens) + 1, ids))
        return {"transitions": sum(map(len, index.get_transitions().values()))}

    def _grammar(self, recipe: dict[str, Any] | None, tokens: list[str] | None) -> dict[str, Any]:
        import xgrammar

        from bosal_decoding.constraints import xgrammar_grammar

        if recipe is not None and tokens is not None:
            info = xgrammar_grammar.tokenizer_info([b64decode(one) for one in tokens])
            compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
            compiler.compile_grammar(xgrammar_grammar.grammar_of(recipe))
        return {}

    def _validate(self, schema: str, text: str) -> dict[str, Any]:
        import jsonschema
        import referencing

        document = json.loads(schema)
        cls = jsonschema.validators.validator_for(document, default=jsonschema.Draft202012Validator)
        try:
            value = json.loads(text)
        except ValueError as error:
            return {"is_valid": False, "why": f"not JSON: {error}"}
        # The registry of its own would fetch what a client's schema refers to.
        known: Any = referencing.Registry()
        for wrong in cls(document, registry=known).iter_errors(value):
            return {"is_valid": False, "why": wrong.message[:500]}
        return {"is_valid": True}


class _Bytes:
    """A vocabulary of single bytes."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


if __name__ == "__main__":
    main()
