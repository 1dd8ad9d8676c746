"""A recipe inside transformers' `generate`, as one logits processor.

Rule 1: the token is drawn here, by the noise every Bosal engine uses, and is the only one left of
its row: `generate` has nothing to decide, so its answers are those of the server.
Rule 2: `generate` can end a row, but take nothing back; what needs that is refused by name.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Self

import torch
from torch import Tensor
from transformers import LogitsProcessor

from bosal_decoding import generate_settings
from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.detokenizer import Detokenizer
from bosal_decoding.errors import ProcessorMisused, RuleUnsupported, UnknownName
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_decoding.recipe import Recipe, load_shipped
from bosal_decoding.rules import RuleStage
from bosal_decoding.scaffolds import Message
from bosal_decoding.schema import join_field
from bosal_decoding.stopping import StopMatch, TextStop
from bosal_decoding.vocabulary import Vocabulary, end_ids
from bosal_decoding.yielding import yielded_rules

Conversation = str | Sequence[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedAnswer:
    """One row's answer; its reasons are called as the client calls them."""

    text: str
    # Without an end-of-text token that only told `generate` to stop.
    token_ids: tuple[int, ...]
    # "": `generate` ended it.
    finish_reason: str
    matched_stop: str
    yielded_rules: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Row:
    """One choice: where it stands, and why it is over."""

    prompt: Prompt
    choice: int
    stop: TextStop | None
    tokens: list[int] = field(default_factory=list)
    # Bytes of the tokens, and those of the answer's text.
    num_bytes: int = 0
    text: bytearray = field(default_factory=bytearray)
    yielded: dict[str, None] = field(default_factory=dict)
    reason: str = ""
    matched_stop: str = ""


class RecipeProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Decodes with a recipe inside `generate`; holds one call's rows, so it serves one at a time.

    processor = RecipeProcessor.of("steered", model, tokenizer, seed=7)
    model.generate(**processor.arguments("Name three rivers.", max_tokens=64))
    processor.answers()[0].text
    """

    def __init__(
        self, recipe: Recipe, vocabulary: Vocabulary, *, context_tokens: int, seed: int = 0
    ) -> None:
        """Compile for a model; `choice` 0, 1, … of a conversation differ under one seed.

        Raises:
            RuleUnsupported: a rule needs more than one stream, or to take tokens back.
        """
        _refuse(recipe)
        self.plan: Plan = compile_recipe(recipe, vocabulary, context_tokens=context_tokens)
        self._seed = seed
        self._max_tokens = 0
        self._width = 0
        self._num_calls = 0
        self._rows: list[_Row] = []
        self._pipeline: Pipeline | None = None
        if self.plan.watches_text and not self.plan.eos_ids:
            name = next(one.rule for one in self.plan.rules if one.stage == RuleStage.STOP)
            why = "without an end-of-text token a row cannot be ended"
            raise RuleUnsupported(name, why, field="rules")

    @classmethod
    def of(
        cls, recipe: Recipe | Mapping[str, Any] | str, model: Any, tokenizer: Any, *, seed: int = 0
    ) -> Self:
        """Compile for a causal language model of transformers and its tokenizer.

        A recipe is one, its document, or the name of one that comes with Bosal.
        """
        config = model.config.get_text_config()
        eos_ids = end_ids(tokenizer, model, config.vocab_size)
        vocabulary = Vocabulary.from_tokenizer(tokenizer, eos_ids=eos_ids)
        room = config.max_position_embeddings
        return cls(_read(recipe), vocabulary, context_tokens=room, seed=seed)

    def arguments(
        self,
        *conversations: Conversation,
        max_tokens: int | None = None,
        num_choices: int = 1,
        device: torch.device | str = "cpu",
    ) -> dict[str, Any]:
        """Return what to call `generate` with, this processor included, and forget calls before.

        A conversation is an instruction or messages; its choices lie beside each other.
        """
        if not conversations:
            raise ProcessorMisused("there is nothing to answer")
        prompts = [self._prompt(conversation, max_tokens) for conversation in conversations]
        budgets = [self.plan.output_budget([prompt], max_tokens) for prompt in prompts]
        # Rows of one call end together.
        self._max_tokens = min(budgets)
        self._width = max(len(prompt.token_ids) for prompt in prompts)
        self._num_calls = 0
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._rows = [
            _Row(
                prompt=prompt,
                choice=choice,
                stop=self.plan.text_stop() if self.plan.watches_text else None,
            )
            for prompt, choice in product(prompts, range(num_choices))
        ]
        pad = min(self.plan.eos_ids, default=0)
        ids = torch.full((len(self._rows), self._width), pad, device=device)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(self._rows):
            count = len(one.prompt.token_ids)
            ids[row, self._width - count :] = torch.tensor(one.prompt.token_ids, device=device)
            mask[row, self._width - count :] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "logits_processor": [self],
            "max_new_tokens": self._max_tokens,
            "eos_token_id": sorted(self.plan.eos_ids) or None,
            "pad_token_id": pad,
            **generate_settings.settings(),
        }

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Draw every row's token from its logits [B, V]; all others become -infinity."""
        position = self._check(input_ids)
        pipeline = self._begun(scores)
        live = [row for row, one in enumerate(self._rows) if not one.reason]
        drawn = [min(self.plan.eos_ids, default=0)] * len(self._rows)
        if live:
            rows = scores[torch.tensor(live, device=scores.device)].float().contiguous()
            controlled = pipeline.apply(rows, live)
            for fault in pipeline.take_faults().values():
                raise fault
            selection = pipeline.sample(controlled)
            if bool(selection.invalid.any()):
                raise ProcessorMisused("the model's logits are not finite")
            tokens, yielded = selection.tokens.tolist(), selection.yielded.tolist()
            for row, token, bits in zip(live, tokens, yielded, strict=True):
                in_force = self._in_force(pipeline, row, position)
                if not pipeline.slots.pending(row):
                    self._rows[row].yielded.update(dict.fromkeys(yielded_rules(bits)))
                if self._takes(self._rows[row], token, position, in_force):
                    drawn[row] = token
            going = [row for row, token in zip(live, tokens, strict=True) if token >= 0]
            pipeline.slots.commit(going, [[drawn[row]] for row in going])
        chosen = torch.full_like(scores, -torch.inf)
        index = torch.tensor(drawn, device=scores.device)
        return chosen.scatter_(1, index[:, None], 0.0)

    def answers(self) -> tuple[ProcessedAnswer, ...]:
        """Return what the last call made, row by row."""
        return tuple(
            ProcessedAnswer(
                text=self._text(row),
                token_ids=tuple(row.tokens),
                finish_reason=row.reason.lower(),
                matched_stop=row.matched_stop,
                yielded_rules=tuple(row.yielded),
            )
            for row in self._rows
        )

    def _prompt(self, conversation: Conversation, max_tokens: int | None) -> Prompt:
        if isinstance(conversation, str):
            conversation = [Message(role="user", text=conversation)]
        (prompt,) = self.plan.prompts(conversation, max_tokens)
        return prompt

    def _check(self, input_ids: Tensor) -> int:
        """Return the output position; refuse rows that are not those of `arguments`."""
        if len(input_ids) != len(self._rows):
            raise ProcessorMisused(
                f"{len(input_ids)} rows for {len(self._rows)} answers: `generate` wants the "
                "arguments that `arguments` returns, without beams"
            )
        position = input_ids.shape[1] - self._width
        is_next = position == self._num_calls
        self._num_calls += 1
        last = input_ids[:, -1].tolist()
        for row, token in zip(self._rows, last, strict=True):
            before = row.tokens[-1] if row.tokens else row.prompt.token_ids[-1]
            if not is_next or (not row.reason and token != before):
                raise ProcessorMisused(
                    "a row does not go on with the token drawn for it: each call takes arguments "
                    "of its own, and neither beams nor assisted generation"
                )
        return position

    def _begun(self, scores: Tensor) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = Pipeline(scores.shape[1], len(self._rows), scores.device)
            for slot, row in enumerate(self._rows):
                self._pipeline.slots.add(
                    slot,
                    self.plan,
                    history=row.prompt.history_ids,
                    seed=self._seed,
                    choice=row.choice,
                    opening=row.prompt.opening,
                )
        return self._pipeline

    def _in_force(self, pipeline: Pipeline, row: int, position: int) -> Collection[int]:
        """The rules over the text that count at a token; one that is forced passes no gate."""
        scopes = self.plan.text_scopes
        if pipeline.slots.pending(row):
            return [rule for rule, one in scopes.items() if one.holds_at(position, inside=False)]
        return pipeline.slots.in_force(row, scopes)

    def _takes(self, row: _Row, token: int, position: int, in_force: Collection[int]) -> bool:
        """Append a token to its row; False if there is none, and the row ends without."""
        if token < 0:
            row.reason = "RULE_CONFLICT"
            return False
        row.tokens.append(token)
        is_end = token in self.plan.eos_ids
        spelled = self._spelling(token)
        # What the output begins with may be the prompt's.
        hidden = max(len(row.prompt.opening.hidden.encode()) - row.num_bytes, 0)
        row.num_bytes += len(spelled)
        row.text += spelled[hidden:]
        if row.stop is not None:
            match = row.stop.feed(spelled[hidden:], token, in_force, is_end=is_end)
            if isinstance(match, StopMatch):
                row.reason, row.matched_stop = match.reason, match.string.decode(errors="replace")
                return True
        if is_end:
            row.reason = "STOP_TOKEN"
        elif position + 1 >= self._max_tokens:
            row.reason = "MAX_TOKENS"
        return True

    def _spelling(self, token: int) -> bytes:
        is_text = token not in self.plan.eos_ids and token < self.plan.vocabulary.size
        return self.plan.vocabulary.token_bytes[token] if is_text else b""

    def _text(self, row: _Row) -> str:
        spelled = bytes(row.text) if row.stop is None else row.stop.text
        detokenizer = Detokenizer(self.plan.recipe.scaffold.lead)
        return detokenizer.feed(spelled) + detokenizer.flush()


def _read(recipe: Recipe | Mapping[str, Any] | str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.parse(recipe)
    shipped = load_shipped()
    if recipe not in shipped:
        raise UnknownName("shipped recipe", recipe, shipped, field="recipe")
    return shipped[recipe]


def _refuse(recipe: Recipe) -> None:
    """Refuse what one row of logits at a time, never taken back, cannot do."""
    for index, rule in enumerate(recipe.rules):
        where = join_field("rules", index)
        if rule.stage is RuleStage.COMBINE:
            why = "it decodes with several streams, and a logits processor sees one"
            raise RuleUnsupported(rule.name, why, field=where)
        if rule.name in ("banned_strings", "forced_phrases"):
            why = "it takes tokens back, which `generate` never does"
            raise RuleUnsupported(rule.name, why, field=where)
    if recipe.constraint is not None:
        why = "it takes tokens back to end within max_tokens, which `generate` never does"
        raise RuleUnsupported("constraint", why, field="constraint")
