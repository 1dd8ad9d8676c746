"""Rules that leave only some of the vocabulary; unlike a ban they never yield."""

from typing import Annotated, Literal

import regex
from pydantic import BeforeValidator, Field, model_validator

from bosal_decoding.errors import RuleUnsupported, UnknownTokenString, shorten
from bosal_decoding.limits import MAX_WEIGHTS
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import TokenId, TokenString, join_field, whole

_Ids = Annotated[
    tuple[Annotated[TokenId, whole], ...], Field(max_length=100 * MAX_WEIGHTS, strict=False)
]


def _as_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class AllowedTokens(Rule):
    name = "allowed_tokens"
    stage = RuleStage.MASK
    summary = "Forbids every token but those given by id or by string."
    formula = "z[v] = -inf unless v in ids or the bytes of v are in strings"
    source = "allowed_token_ids of vLLM, prefix_allowed_tokens_fn of transformers"

    ids: Annotated[_Ids, BeforeValidator(_as_list)] = ()
    """Token ids of the served model."""
    strings: Annotated[tuple[TokenString, ...], Field(max_length=MAX_WEIGHTS, strict=False)] = ()
    """Strings: every single token that spells one; none is an error unless skipped."""
    allow_end: bool = True
    """Whether the end of the text stays allowed."""
    if_missing: Literal["error", "skip"] = "error"
    """What happens when no single token of the model spells a string."""

    @model_validator(mode="after")
    def _has_some(self) -> "AllowedTokens":
        if not self.ids and not self.strings:
            raise ValueError("needs 'ids' or 'strings'")
        return self

    def contribute(self, draft: Draft) -> None:
        found = set()
        for place, token in enumerate(self.ids):
            draft.check_id(token, "ids", place)
            found.add(token)
        for place, text in enumerate(self.strings):
            ids = draft.vocabulary.ids_of(text)
            where = join_field(draft.path, "strings", place)
            if not ids and self.if_missing == "error":
                raise UnknownTokenString(text, field=where)
            if not ids:
                draft.notes.append(f"{where}: no single token spells {shorten(text)}, skipped")
            draft.token_ids[text] = ids
            found.update(ids)
        draft.allow(list(found), self.name, with_end=self.allow_end)


class AllowedScripts(Rule):
    name = "allowed_scripts"
    stage = RuleStage.MASK
    summary = "Forbids every token with a character outside of the given Unicode scripts."
    formula = "z[v] = -inf unless every character of v has one of the scripts or classes"
    source = "Unicode Standard Annex 24 (scripts) and 44 (general categories)"

    scripts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]{1,40}$")], ...],
        Field(min_length=1, max_length=64, strict=False),
    ]
    """Scripts such as Latin, Greek or Han, or general categories such as L, Nd or P."""
    common: bool = True
    """Whether what all scripts share stays allowed: digits, punctuation, spaces, marks."""

    def contribute(self, draft: Draft) -> None:
        for place, name in enumerate(self.scripts):
            try:
                regex.compile(rf"\p{{{name}}}")
            except regex.error:
                why = f"Unicode has no script or class {shorten(name)}"
                field = join_field(draft.path, "scripts", place)
                raise RuleUnsupported(self.name, why, field=field) from None
        names = [*self.scripts, *(("Common", "Inherited") if self.common else ())]
        others = regex.compile("[^" + "".join(rf"\p{{{name}}}" for name in names) + "]")
        found = draft.vocabulary.spellings.without(others)
        draft.allow(found, self.name, with_end=True)
        draft.notes.append(f"{draft.path}: {len(found)} tokens are allowed")
