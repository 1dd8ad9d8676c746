"""A vocabulary as llguidance reads one."""

from llguidance import LLTokenizer, TokenizerWrapper

from bosal_decoding.constraints.spelling import Spelling, bit_of


class _Encoder:
    """A vocabulary as llguidance reads one: tokens, and text to tokens."""

    def __init__(self, spelling: Spelling) -> None:
        # The matcher's own end is one more token, so that it is never one of the model's.
        self.eos_token_id = len(spelling.token_bytes)
        self.bos_token_id = None
        self.tokens = [
            spelled or b"<special %d>" % token for token, spelled in enumerate(spelling.token_bytes)
        ] + [b"<end>"]
        self.special_token_ids = [
            token for token, spelled in enumerate(spelling.token_bytes) if not spelled
        ] + [self.eos_token_id]
        self._spelling = spelling

    def __call__(self, text: bytes | str) -> list[int]:
        return self._spelling.encode(text if isinstance(text, str) else text.decode())


class LlguidanceTokenizer:
    """A vocabulary prepared for llguidance; built once, some 0.5 s for 128k tokens."""

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        encoder = _Encoder(spelling)
        self.native = LLTokenizer(
            TokenizerWrapper(encoder), n_vocab=len(encoder.tokens), eos_token=encoder.eos_token_id
        )
        self.mask_bytes = spelling.num_words * 4
        # The word of the matcher's own end, and a mask that clears it.
        end = encoder.eos_token_id
        self.own_end = end >> 5, ~bit_of(end)
