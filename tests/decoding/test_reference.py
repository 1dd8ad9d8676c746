"""The page about rules and scaffolds is what the code says."""

import re
from pathlib import Path

from transformers import GenerationConfig

from bosal_decoding.peers import PEERS
from bosal_decoding.reference import reference
from bosal_decoding.rules import RULES
from bosal_decoding.scaffolds import SCAFFOLDS

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


def test_the_checked_in_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == reference(), "run `make docs`"


def test_every_rule_and_scaffold_has_a_section() -> None:
    sections = re.findall(r"^### `(\w+)`$", reference(), flags=re.MULTILINE)
    assert sections == [*RULES, *SCAFFOLDS]


def test_every_parameter_has_its_range_and_default() -> None:
    page = reference()
    assert "| `threshold` | number | above 0 to 1 | `0.1` |" in page
    assert "| `k` | integer | 0 to 2,147,483,647 | required |" in page
    assert "| `weights` | mapping | -10,000 to 10,000 | required |" in page
    assert '| `if_missing` | `error` or `skip` | | `"error"` |' in page
    assert '| `user` | text | 2 to 64 characters | `"<\\|user\\|>"` |' in page


def test_the_names_in_transformers_exist_there() -> None:
    known = GenerationConfig().to_dict()
    assert known.keys() >= {peers.transformers for peers in PEERS.values()} - {""}


def test_only_rules_have_peers_and_only_the_papers_own_have_none() -> None:
    coupled = {rule.name for rule in RULES.values() if rule.stage == "combine"} - {"guidance"}
    own = {
        *("token_weights", "used_token_weight", "eos_ramp"),
        *("stop_turns", "stop_whitespace", "max_sentences", "max_paragraphs"),
        *("allowed_scripts", "forced_phrases"),
    }
    assert RULES.keys() - PEERS.keys() == own | coupled
    assert PEERS.keys() <= RULES.keys()


def test_every_parameter_of_transformers_is_on_the_page_for_newcomers() -> None:
    page = (PAGE.parent / "peers.md").read_text()
    listed = set(re.findall(r"`(\w+)`", page))
    about_other_things = re.compile(
        r".*(cache|assistant|lookbehind|speculation|compile|prompt_lookup|max_matching|mtp|chunk).*|"
        r"output_(attentions|hidden_states)|return_dict_.*|(pad|bos)_token_id|low_memory|"
        r"continuous_batching_config|constraints|_from_model_config|transformers_version"
    )
    missing = GenerationConfig().to_dict().keys() - listed
    assert [name for name in sorted(missing) if not about_other_things.fullmatch(name)] == []
