"""Where a compiled constraint and the rules beside it leave nothing legal, before any work."""

import numpy as np

from bosal_decoding.constraints.program import Program, State
from bosal_decoding.errors import RuleConflict, shorten
from bosal_decoding.opening import Opening
from bosal_decoding.plan import Plan
from bosal_kernels import Region


def check_program(plan: Plan, program: Program, opening: Opening) -> None:
    """Refuse rules that the plan's constraint contradicts.

    What only some texts run into is left to the step, where rules yield in their order.

    Raises:
        RuleConflict: naming the rule and the constraint.
    """
    _check_least_length(plan, program)
    state = program.new_state()
    if opening.token_ids or opening.cut:
        tokens = [*opening.token_ids, *opening.cut]
        if state.validate(tokens) < len(tokens):
            why = f"it allows no text that starts with {shorten(plan.opener.answer)}"
            raise RuleConflict("prefill", "constraint", why, field="")
    for token in opening.token_ids:
        state.advance(token)
    _check_allowed(plan, state, len(opening.token_ids))


def _check_least_length(plan: Plan, program: Program) -> None:
    """Where nothing may follow a text that is too short, the mask would be empty."""
    values = [plan.params.min_tokens] + [
        int(value.value)
        for value in plan.params.scoped
        if value.param == "min_tokens"
        and value.scope.region is not Region.OUTSIDE
        and not value.scope.is_gated
    ]
    shortest = program.close
    if shortest is None or len(shortest) >= max(values):
        return
    state = program.new_state()
    for token in shortest:
        state.advance(token)
    if state.is_finished:
        why = (
            f"it may be complete after {len(shortest)} tokens, behind which only the end is legal, "
            f"which is not before {max(values)}"
        )
        raise RuleConflict("min_tokens", "constraint", why, field="")


def _check_allowed(plan: Plan, state: State, position: int) -> None:
    """The first token must be legal for the constraint and for each set of allowed tokens."""
    row = np.zeros(plan.vocabulary.size // 32 + 1, np.int32)
    state.allowed(row)
    for place, words in zip(plan.allowed_by, plan.params.allowed, strict=True):
        rule = plan.recipe.rules[place]
        count = min(len(words), len(row))
        if (
            rule.holds_at(position, in_constraint=True)
            and not (row[:count] & np.array(words[:count], np.int32)).any()
        ):
            why = "no token is legal for both at the start"
            raise RuleConflict(rule.name, "constraint", why, field="")
