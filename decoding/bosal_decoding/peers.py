"""What other engines call the rules, and where their meaning differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """One rule's parameters elsewhere, separated by commas; empty where there is none."""

    transformers: str = ""
    vllm: str = ""
    llama_cpp: str = ""
    difference: str = ""


_OUTPUT_ONLY: Final = (
    "the output, as in vLLM; as in llama.cpp with `window: 64` and `include_instruction`"
)

PEERS: Final[Mapping[str, Peers]] = MappingProxyType(
    {
        "guidance": Peers(
            transformers="guidance_scale",
            difference="the prompt without the instruction is scored against by default; "
            "`unconditional: last_token` is what transformers does, `negative_prompt` its "
            "`negative_prompt_ids`",
        ),
        "prefill": Peers(
            vllm="continue_final_message",
            difference="of the recipe, not of the conversation; its text is part of the answer",
        ),
        "token_healing": Peers(
            transformers="token_healing",
            difference="as many tokens are taken back as longer text could cut otherwise, not one; "
            "what may follow is a mask, not a bias",
        ),
        "logit_bias": Peers(
            transformers="sequence_bias",
            vllm="logit_bias",
            llama_cpp="logit_bias",
            difference="a string is one token; llama.cpp biases every token a string consists of",
        ),
        "repetition_penalty": Peers(
            transformers="repetition_penalty",
            vllm="repetition_penalty",
            llama_cpp="repeat_penalty",
            difference="of the prompt it sees the instruction, never the scaffold",
        ),
        "presence_penalty": Peers(
            vllm="presence_penalty",
            llama_cpp="presence_penalty",
            difference=_OUTPUT_ONLY,
        ),
        "frequency_penalty": Peers(
            vllm="frequency_penalty",
            llama_cpp="frequency_penalty",
            difference=_OUTPUT_ONLY,
        ),
        "dry": Peers(
            llama_cpp="dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n, "
            "dry_sequence_breakers",
            difference="a breaker is a token that holds the string; the scaffold is not looked at",
        ),
        "exponential_decay_length": Peers(
            transformers="exponential_decay_length_penalty",
            difference="acts after all other shaping rules",
        ),
        "min_tokens": Peers(transformers="min_new_tokens", vllm="min_tokens"),
        "no_repeat_ngram": Peers(
            transformers="no_repeat_ngram_size",
            difference="of the prompt it sees the instruction, never the scaffold",
        ),
        "allowed_tokens": Peers(
            vllm="allowed_token_ids",
            difference="the end of the text stays allowed unless `allow_end` is false; a function "
            "of the text, as in transformers, is a constraint here",
        ),
        "banned_strings": Peers(
            transformers="bad_words_ids",
            vllm="bad_words",
            difference="whatever tokens spell them; the others mask the last token of a spelling",
        ),
        "temperature": Peers(
            transformers="temperature",
            vllm="temperature",
            llama_cpp="temperature",
            difference="acts at its place in the recipe; in vLLM first, in llama.cpp last",
        ),
        "dynamic_temperature": Peers(
            llama_cpp="dynatemp_range, dynatemp_exponent",
            difference="`low` and `high` are temperature - range and temperature + range",
        ),
        "mirostat": Peers(
            llama_cpp="mirostat 2, mirostat_tau, mirostat_eta",
            difference="acts on what the chain before it leaves; llama.cpp runs it alone",
        ),
        "top_k": Peers(
            transformers="top_k",
            vllm="top_k",
            llama_cpp="top_k",
            difference="exactly k, ties by id; transformers keeps all that tie with the last",
        ),
        "top_p": Peers(transformers="top_p", vllm="top_p", llama_cpp="top_p"),
        "min_p": Peers(transformers="min_p", vllm="min_p", llama_cpp="min_p"),
        "typical": Peers(transformers="typical_p", llama_cpp="typical_p"),
        "top_n_sigma": Peers(
            llama_cpp="top_n_sigma",
            difference="deviation of the whole row, also behind other cuts",
        ),
        "epsilon": Peers(transformers="epsilon_cutoff"),
        "eta": Peers(transformers="eta_cutoff"),
        "xtc": Peers(
            llama_cpp="xtc_probability, xtc_threshold",
            difference="the coin is a function of seed, choice and position",
        ),
        "max_tokens": Peers(
            transformers="max_new_tokens", vllm="max_tokens", llama_cpp="n_predict"
        ),
        "stop_regex": Peers(difference="SGLang's stop_regex; here a match has at most 256 bytes"),
        "stop_loops": Peers(
            vllm="repetition_detection",
            difference="vLLM has its own names for period, count and length",
        ),
        "token_budget": Peers(
            vllm="thinking_token_budget",
            difference="of the whole answer, and it ends at a sentence",
        ),
        "stop_strings": Peers(transformers="stop_strings", vllm="stop", llama_cpp="stop"),
    }
)
