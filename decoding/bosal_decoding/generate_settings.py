"""What transformers' `generate` is told so that it does nothing of its own.

A model's configuration may ask for processors, searches and ends of its own. They would change the
rows that a recipe sees, or take its tokens for others, so all of them are off: the recipe says it
all.
"""

from typing import Any, Final

from transformers import GenerationConfig

_OFF: Final = (
    # Processors before and after the recipe's.
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "guidance_scale", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size",
    "remove_invalid_values", "renormalize_logits", "repetition_penalty", "sequence_bias",
    "suppress_tokens", "temperature", "top_h", "top_k", "top_p", "typical_p",
    "watermarking_config",
    # Other searches.
    "assistant_confidence_threshold", "constraints", "dola_layers", "force_words_ids",
    "is_assistant", "num_beam_groups", "penalty_alpha", "prompt_lookup_num_tokens",
    "speculation_type", "use_mtp",
    # Other ends, and another prompt.
    "max_time", "stop_strings", "token_healing",
)  # fmt: skip


def settings() -> dict[str, Any]:
    """Arguments that overrule whatever the model's own configuration says."""
    known = GenerationConfig().to_dict()
    off = {name: None for name in _OFF if name in known}
    return off | {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
