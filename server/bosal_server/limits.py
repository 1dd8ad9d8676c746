"""What one request may ask of a server."""

from dataclasses import dataclass

from bosal_server.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask for; one that asks for more is refused before any work."""

    max_request_bytes: int = setting(
        1024 * 1024, "Largest request read.", minimum=1024, maximum=64 * 1024 * 1024
    )
    max_choices: int = setting(16, "Choices of one request.", minimum=1, maximum=1024)
    max_top_logprobs: int = setting(20, "Alternatives per token.", minimum=0, maximum=1000)
    max_messages: int = setting(256, "Messages of a conversation.", minimum=1)
    max_prompt_bytes: int = setting(
        256 * 1024,
        "Bytes of an instruction, a conversation or another text that is to be tokenised.",
        minimum=1,
    )
    max_preparing: int = setting(
        512,
        "Calls that wait to be compiled and tokenised before one is refused.",
        minimum=1,
    )
    max_scored_tokens: int = setting(4096, "Tokens of one scored continuation.", minimum=1)
    max_request_id_chars: int = 128
