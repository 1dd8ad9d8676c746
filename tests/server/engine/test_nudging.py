"""Nudging in the engine against a naive one: two models, strings between them, no cache."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.server.conftest import _CORPUS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.streams import StreamModel
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.request import FinishReason
from bosal_server.model import LoadedModel, load_model

from .bench import GREEDY, Answer, Bench, MakeBench, MakeModel

ASKED = "one two three four"
Loaded = dict[str, LoadedModel]


def save_guide(folder: Path) -> Path:
    """A random model over a tokenizer of its own, of fewer tokens in another order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<pad>", "<stop>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS[:4], trainer)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = AutoConfig.for_model("llama", vocab_size=320, eos_token_id=1, **shape, **heads)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(std=0.2)
    # Spaces are likely, so that there are words.
    space = tokenizer.encode("a b").ids[1]
    with torch.no_grad():
        model.lm_head.weight[space] += 0.4
    model.save_pretrained(folder)
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, eos_token="<stop>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"base": tiny_llama_folder, "guide": save_guide(tmp_path_factory.mktemp("guide"))}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> Loaded:
    return {name: load_model(name, str(path), dtype="float32") for name, path in folders.items()}


class Naive:
    """Nudging by the book: every token from a forward pass over a whole text."""

    def __init__(self, folders: Mapping[str, Path], loaded: Loaded) -> None:
        load: Any = AutoModelForCausalLM
        self.models = {name: load.from_pretrained(path) for name, path in folders.items()}
        self.vocabularies = {name: one.vocabulary for name, one in loaded.items()}

    @torch.inference_mode()
    def row(self, model: str, ids: list[int]) -> Any:
        size = self.vocabularies[model].size
        return self.models[model](torch.tensor([ids])).logits[0, -1, :size].double().numpy()

    def word(self, model: str, prompt: str, text: str) -> str | None:
        vocabulary = self.vocabularies[model]
        ids = vocabulary.encode(prompt) + (vocabulary.spell(text) or [])
        heard = b""
        for _ in range(24):
            token = int(self.row(model, ids).argmax())
            if token in vocabulary.eos_ids:
                break
            ids.append(token)
            heard += vocabulary.token_bytes[token]
            found = re.match(r"\s*\S+(?=\s)", heard.decode(errors="ignore"))
            if found:
                return found[0]
        return heard.decode(errors="ignore") if heard.strip() else None

    def decode(
        self, guide: str, prompts: tuple[str, str], below: float, max_tokens: int
    ) -> tuple[list[int], int]:
        base = self.vocabularies["base"]
        prompt = base.encode(prompts[0])
        output: list[int] = []
        nudged, in_round = 0, False
        while len(output) < max_tokens:
            row = self.row("base", prompt + output)
            p = np.exp(row - row.max())
            best, sure = int(row.argmax()), 1 / p.sum() >= below
            word = None
            if not sure:
                try:
                    text = base.bytes_of(output).decode()
                except UnicodeDecodeError:
                    text = None
                if text is not None:
                    word = self.word(guide, prompts[1], text)
                    if word is None:
                        return output, nudged
            begins = base.token_bytes[best].strip()
            if word is None or (in_round and begins and word.strip().encode().startswith(begins)):
                output.append(best)
                in_round = False
            else:
                ids = base.spell(word) or []
                ids = ids[: max_tokens - len(output)]
                output += ids
                nudged += len(ids)
                in_round = True
            if output[-1] == 0:
                break
        return output, nudged


def plan_of(loaded: Loaded, rule: Mapping[str, Any], *rules: Mapping[str, Any]) -> Plan:
    document = {
        "scaffold": {"kind": "plain"},
        "rules": [{"rule": "nudging", **rule}, *rules, *GREEDY],
    }
    return compiled(loaded, document)


def compiled(loaded: Loaded, document: Mapping[str, Any]) -> Plan:
    served = tuple(
        StreamModel(name=name, vocabulary=one.vocabulary, context_tokens=one.context_tokens)
        for name, one in loaded.items()
    )
    base = loaded["base"]
    return compile_recipe(
        Recipe.parse(document),
        base.vocabulary,
        context_tokens=base.context_tokens,
        models=served,
    )


@pytest.fixture
def bench_of(engine_model: MakeModel) -> MakeBench:
    def make(loaded: Mapping[str, LoadedModel], **limits: Any) -> Bench:
        return Bench({name: engine_model(one) for name, one in loaded.items()}, **limits)

    return make


def submit(bench: Bench, plan: Plan, text: str, **options: Any) -> Answer:
    prompts = plan.prompts([Message(role="user", text=text)])
    return bench.submit(plan, (), prompts=prompts, **options)


TURNS = "<|user|>\n{}\n<|assistant|>\n"
# Whose words, the rule, and the form of the guide's prompt.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("guide", {"guide": "guide", "top1_below": 0.03}, "{}\n"),
    ("guide", {"guide": "guide", "top1_below": 0.05}, "{}\n"),
    ("base", {"guide_scaffold": {"kind": "turns"}, "top1_below": 0.04}, TURNS),
]


@pytest.mark.parametrize("max_batch_tokens", [7, 512])
def test_nudged_requests_equal_the_naive_ones(
    max_batch_tokens: int, folders: dict[str, Path], loaded: Loaded, bench_of: MakeBench
) -> None:
    """Across tokenizers and with the same model, side by side with plain requests."""
    naive = Naive(folders, loaded)
    bench = bench_of(loaded, max_batch_tokens=max_batch_tokens)
    expected, answers = [], []
    for guide, rule, form in CASES:
        prompts = (f"{ASKED}\n", form.format(ASKED))
        expected.append(naive.decode(guide, prompts, rule["top1_below"], 20))
        answers.append(submit(bench, plan_of(loaded, rule), ASKED, max_tokens=20))
        bench.step()
    bench.run()
    for answer, (tokens, nudged) in zip(answers, expected, strict=True):
        assert answer.tokens() == tokens
        ending = answer.finished.endings[0]
        assert ending.interventions == nudged
        assert nudged > 0
    assert any(nudged < len(tokens) for tokens, nudged in expected)
    assert bench.held_blocks == 0


def test_a_guide_in_another_form_gives_its_words_without_its_lead(
    loaded: Loaded, bench_of: MakeBench
) -> None:
    bench = bench_of(loaded)
    rule = {"guide": "guide", "guide_scaffold": {"kind": "qa"}, "top1_below": 1.0}
    answer = submit(bench, plan_of(loaded, rule), ASKED, max_tokens=6)
    bench.run()
    assert answer.text()
    assert not answer.text().startswith(" ")


def test_usage_names_the_guide(loaded: Loaded, bench_of: MakeBench) -> None:
    bench = bench_of(loaded)
    answer = submit(bench, plan_of(loaded, CASES[0][1]), ASKED, max_tokens=10)
    bench.run()
    base, guide = answer.finished.usage.streams
    assert (base.role, guide.role, guide.model) == ("base", "guide", "guide")
    assert guide.prompt_tokens == len(loaded["guide"].vocabulary.encode(f"{ASKED}\n"))
    assert guide.forwards > guide.prompt_tokens


def test_masks_hold_against_the_guide(loaded: Loaded, bench_of: MakeBench) -> None:
    """A word whose token may not stand there is dropped."""
    bench = bench_of(loaded)
    rule = {"guide": "guide", "top1_below": 1.0}
    free = submit(bench, plan_of(loaded, rule), ASKED, max_tokens=8)
    bench.run()
    banned = free.text().strip()[:1]
    bench = bench_of(loaded)
    held = submit(
        bench,
        plan_of(loaded, rule, {"rule": "banned_strings", "values": [banned]}),
        ASKED,
        max_tokens=8,
    )
    bench.run()
    assert held.text()
    assert banned not in held.text()


def let_say(
    models: Mapping[str, EngineModel], monkeypatch: pytest.MonkeyPatch, script: Iterable[int]
) -> None:
    """Let the guide say these tokens, whatever it reads."""
    forward = models["guide"].runner.forward
    said = iter(script)

    def scripted(plan: Any) -> torch.Tensor:
        logits = forward(plan)
        if len(logits):
            logits[:, next(said)] = 100.0
        return logits

    monkeypatch.setattr(models["guide"].runner, "forward", scripted)


@pytest.mark.parametrize("reason", [FinishReason.STOP_RULE, FinishReason.LOOP])
def test_the_guide_ends_the_answer(
    reason: FinishReason, loaded: Loaded, monkeypatch: pytest.MonkeyPatch, engine_model: MakeModel
) -> None:
    """With its end of text, or with the same word three times."""
    vocabulary = loaded["guide"].vocabulary
    (word,) = vocabulary.ids_of("x")
    (space,) = vocabulary.ids_of(" ")
    script = [1] if reason is FinishReason.STOP_RULE else [space, word, space] * 9
    models = {name: engine_model(one) for name, one in loaded.items()}
    let_say(models, monkeypatch, script)
    bench = Bench(models)
    plan = plan_of(loaded, {"guide": "guide", "top1_below": 1.0})
    answer = submit(bench, plan, ASKED, max_tokens=40)
    bench.run()
    assert answer.finished.endings[0].reason is reason
    assert answer.text() == ("" if reason is FinishReason.STOP_RULE else " x x")
    assert bench.held_blocks == 0


@pytest.mark.parametrize("steps", range(0, 12, 2))
def test_a_nudged_group_cancelled_in_any_phase_leaves_nothing(
    steps: int, loaded: Loaded, bench_of: MakeBench
) -> None:
    bench = bench_of(loaded, max_batch_tokens=8, max_groups=2)
    plan = plan_of(loaded, {"guide": "guide", "top1_below": 1.0})
    stays = submit(bench, plan, ASKED, max_tokens=12)
    goes = submit(bench, plan, ASKED + " five six", max_tokens=30, num_choices=2)
    for _ in range(steps):
        bench.step()
    bench.cancel(goes)
    bench.run()
    assert stays.finished
    assert bench.held_blocks == 0


def test_behind_its_reserve_the_guide_is_not_asked(loaded: Loaded, bench_of: MakeBench) -> None:
    bench = bench_of(loaded)
    rule = {"guide": "guide", "top1_below": 1.0, "reserve_bytes": 64}
    answer = submit(bench, plan_of(loaded, rule), ASKED, max_tokens=120)
    bench.run()
    ending = answer.finished.endings[0]
    assert ending.reason is FinishReason.MAX_TOKENS
    assert 0 < (ending.interventions or 0) < 90


@pytest.mark.parametrize("said", ["\n", "<pad>", "\ufffd"])
def test_a_guide_that_never_says_a_word_leaves_the_answer_to_the_base(
    said: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch, engine_model: MakeModel
) -> None:
    """White space, tokens that spell nothing, or bytes that are no text, for ever."""
    vocabulary = loaded["guide"].vocabulary
    tokens = {
        "\n": vocabulary.ids_of("\n"),
        "<pad>": (0,),
        "\ufffd": vocabulary.ids_spelling(b"\xff"),
    }
    models = {name: engine_model(one) for name, one in loaded.items()}
    let_say(models, monkeypatch, repeat(tokens[said][0]))
    bench = Bench(models)
    nudged = submit(bench, plan_of(loaded, {"guide": "guide", "top1_below": 1.0}), ASKED)
    alone = submit(bench, plan_of(loaded, {"guide": "guide", "top1_below": 1e-9}), ASKED)
    bench.run()
    assert nudged.tokens() == alone.tokens()
    assert nudged.finished.endings[0].interventions == 0


@pytest.fixture(scope="module")
def compiler() -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler()
    yield compiler
    compiler.close()


@pytest.mark.parametrize("is_loop", [False, True])
def test_nudging_ends_no_answer_that_may_not_end(
    is_loop: bool,
    loaded: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    engine_model: MakeModel,
    compiler: ConstraintCompiler,
) -> None:
    """Not before `min_tokens`, nor while the text is none of the constraint's."""
    vocabulary = loaded["guide"].vocabulary
    (word,), (space,) = vocabulary.ids_of("x"), vocabulary.ids_of(" ")
    script = [space, word, space] if is_loop else [1]
    models = {name: engine_model(one) for name, one in loaded.items()}
    let_say(models, monkeypatch, script * 999)
    rule = {"guide": "guide", "top1_below": 1.0}
    bench = Bench(models)
    # Whole characters, or the guide is not asked; the base never ends by itself.
    words = {"rule": "allowed_scripts", "scripts": ["Latin"]}
    onward = {"rule": "logit_bias", "ids": {"0": -1000}}
    plan = plan_of(loaded, rule, {"rule": "min_tokens", "value": 7}, words, onward)
    held = submit(bench, plan, ASKED, max_tokens=40)
    bench.run()
    ending = held.finished.endings[0]
    assert ending.reason is (FinishReason.LOOP if is_loop else FinishReason.STOP_RULE)
    assert ending.output_tokens >= 7
    document = {**plan_of(loaded, rule).recipe.document(), "constraint": {"regex": "[0-9]{9}"}}
    plan = compiled(loaded, document)
    assert plan.recipe.constraint is not None
    program = compiler.compile(plan.recipe.constraint, plan.vocabulary)
    answer = submit(bench, plan, ASKED, max_tokens=40, program=program)
    bench.run()
    assert re.fullmatch("[0-9]{9}", answer.text())
    assert answer.finished.endings[0].reason is FinishReason.CONSTRAINT_COMPLETE


@pytest.mark.parametrize("options", [{"logprobs": 0}, {"logprobs": 2, "num_choices": 2}])
def test_asking_for_log_probabilities_changes_nothing_about_forced_text(
    options: dict[str, Any], loaded: Loaded, bench_of: MakeBench
) -> None:
    """A guide is not asked what comes where that is settled."""
    phrases = {
        "rule": "forced_phrases",
        "phrases": [{"text": " the moon", "at": 2}, {"text": " and the mat", "at": 6}],
    }
    prefill = {"rule": "prefill", "text": "The cat sat on", "heal": False}
    for _, rule, _ in CASES:
        plan = plan_of(loaded, {**rule, "top1_below": 1.0}, prefill, phrases)
        bench = bench_of(loaded)
        quiet = submit(bench, plan, ASKED, max_tokens=30)
        asked = submit(bench, plan, ASKED, max_tokens=30, **options)
        bench.run()
        assert asked.tokens() == quiet.tokens()
        assert asked.finished.endings[0].interventions == quiet.finished.endings[0].interventions
        forwards = [one.finished.usage.streams[-1].forwards for one in (quiet, asked)]
        assert options.get("num_choices") or forwards[0] == forwards[1]
