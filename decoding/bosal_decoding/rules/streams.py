"""Rules that decode one text with several streams: other prompts, other models."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.rules.combination import (
    Combination,
    Mass,
    ModelName,
    PromptText,
    ScaffoldEntry,
    Share,
    Strength,
    in_scaffold,
)
from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.scope import RuleGate
from bosal_decoding.schema import Phrase, whole
from bosal_decoding.streams import (
    LastToken,
    OtherInstruction,
    PromptVariant,
    SamePrompt,
    StreamSpec,
    WholePrompt,
    WithoutContext,
    WithoutInstruction,
)
from bosal_kernels import Space


class Guidance(Combination):
    name = "guidance"
    summary = "Pushes away from what the model would say without the instruction; 1 is off."
    formula = "z = lp_u + s (lp - lp_u), s from scale to final_scale over the first `over` tokens"
    source = (
        "Sanchez et al. 2023, arXiv:2306.17806 (classifier-free guidance); guidance_scale of "
        "transformers"
    )

    scale: Strength = 1.5
    """How far; 1.25 to 1.5 is usual, up to 3 for assistants."""
    final_scale: Strength | None = None
    """Where a schedule ends; unset is `scale` throughout."""
    over: Annotated[int, Field(ge=1, le=MAX_TOKENS), whole] = 64
    """Output tokens the schedule takes."""
    unconditional: Literal["scaffold", "last_token"] = "scaffold"
    """What is pushed away from: the same scaffold without the instruction, or the prompt's last
    token alone. A scaffold that leaves nothing is the last token."""
    negative: PromptText | None = None
    """An instruction to push away from, in the place of the request's."""
    negative_prompt: PromptText | None = None
    """A whole prompt to push away from, as it stands."""

    @model_validator(mode="after")
    def _pushes_from_one(self) -> "Guidance":
        self._one_of("unconditional", "negative", "negative_prompt")
        if "over" in self.model_fields_set and self.final_scale is None:
            raise ValueError("'over' needs 'final_scale', where the schedule ends")
        return self

    def contribute(self, draft: Draft) -> None:
        prompt: PromptVariant = WithoutInstruction()
        if self.negative_prompt is not None:
            prompt = WholePrompt(self.negative_prompt)
        elif self.negative is not None:
            prompt = OtherInstruction(self.negative)
        elif self.unconditional == "last_token":
            prompt = LastToken()
        params = self._params(
            draft,
            Space.LOGPROBS,
            (0, 1),
            (1, -1),
            self.scale,
            final_strength=self.final_scale,
            over=self.over,
        )
        draft.couple(self.name, [StreamSpec(role="unconditional", prompt=prompt)], params)


class ContextAware(Combination):
    name = "context_aware"
    summary = "Trusts the context in the instruction over what the model believes; 0 is off."
    formula = "z = (1 + alpha) z(context, question) - alpha z(question)"
    source = "Shi et al. 2023, arXiv:2305.14739 (context-aware decoding)"

    alpha: Strength = 0.5
    """How far; the paper's are 0.5 for summaries and 1 for answers that contradict memory."""
    separator: Phrase = "\n\n"
    """What stands between context and question in the last message, at its last occurrence."""

    def contribute(self, draft: Draft) -> None:
        stream = StreamSpec(role="without_context", prompt=WithoutContext(self.separator))
        params = self._params(draft, Space.LOGITS, (1, 0), (1, -1), self.alpha)
        draft.couple(self.name, [stream], params)


class Contrastive(Combination):
    name = "contrastive"
    summary = (
        "Prefers what the model likes and a weaker one does not; at 0 plausibility alone acts."
    )
    formula = (
        "z = lp - beta lp_a, or z = (1 + beta) lp - beta lp_a with form extrapolation; "
        "lp_a at amateur_temperature"
    )
    source = (
        "Li et al. 2022, arXiv:2210.15097 (contrastive decoding); extrapolation: O'Brien and Lewis "
        "2023, arXiv:2309.09117"
    )

    amateur: ModelName | None = None
    """The weaker model, as the server calls it; unset is the same model under `amateur_prompt` or
    `amateur_instruction`."""
    beta: Strength = 1.0
    """Weight of the amateur; 0.5 is usual with extrapolation."""
    amateur_temperature: Annotated[float, Field(ge=0.01, le=100)] = 0.5
    """Divides the amateur's logits; 0.5 and 1 in the paper."""
    form: Literal["ratio", "extrapolation"] = "ratio"
    """Whether the weights sum to 1 - beta (Li et al.) or to 1 (O'Brien and Lewis)."""
    plausibility: Share = 0.1
    """Keep only tokens that the base finds at least this share as likely as its best one."""
    amateur_prompt: PromptText | None = None
    """The amateur's whole prompt, as it stands."""
    amateur_instruction: PromptText | None = None
    """An instruction for the amateur in the place of the request's."""
    ignore_prompt: bool = False
    """Whether the amateur sees the prompt's last token alone."""

    @model_validator(mode="after")
    def _is_weaker(self) -> "Contrastive":
        given = self._one_of("amateur_prompt", "amateur_instruction", "ignore_prompt")
        if self.amateur is None and given is None:
            raise ValueError(
                "needs 'amateur', or a prompt that makes the same model one: 'amateur_prompt', "
                "'amateur_instruction' or 'ignore_prompt'"
            )
        return self

    def contribute(self, draft: Draft) -> None:
        prompt: PromptVariant = SamePrompt()
        if self.amateur_prompt is not None:
            prompt = WholePrompt(self.amateur_prompt)
        elif self.amateur_instruction is not None:
            prompt = OtherInstruction(self.amateur_instruction)
        elif self.ignore_prompt:
            prompt = LastToken()
        own = 1.0 if self.form == "extrapolation" else 0.0
        params = self._params(
            draft,
            Space.LOGPROBS,
            (1, 0),
            (own, -1),
            self.beta,
            temperatures=(1.0, self.amateur_temperature),
        )
        stream = StreamSpec(role="amateur", model=self.amateur or "", prompt=prompt)
        draft.couple(self.name, [stream], params)


class ProxyTuning(Combination):
    name = "proxy_tuning"
    summary = "Adds what tuning changed in a small model to a large one; 0 is off."
    formula = "z + alpha (z_expert - z_anti_expert)"
    source = "Liu et al. 2024, arXiv:2401.08565 (proxy-tuning)"

    expert: ModelName
    """The small tuned model, as the server calls it."""
    anti_expert: ModelName
    """The same small model untuned, as the server calls it."""
    alpha: Strength = 1.0
    """How far; 1 in the paper."""
    expert_scaffold: ScaffoldEntry | None = None
    """The form the expert was tuned on; unset is the recipe's."""
    anti_expert_scaffold: ScaffoldEntry | None = None
    """The form of the anti-expert's prompt; unset is the recipe's."""

    def contribute(self, draft: Draft) -> None:
        streams = [
            StreamSpec(role="expert", model=self.expert, prompt=in_scaffold(self.expert_scaffold)),
            StreamSpec(
                role="anti_expert",
                model=self.anti_expert,
                prompt=in_scaffold(self.anti_expert_scaffold),
            ),
        ]
        params = self._params(draft, Space.LOGITS, (1, 0, 0), (0, 1, -1), self.alpha)
        draft.couple(self.name, streams, params)


class ExpertAntiexpert(Combination):
    name = "expert_antiexpert"
    summary = (
        "Steers towards an expert model, away from an anti-expert; at 0 the prefilter alone acts."
    )
    formula = (
        "z + alpha (z_expert - z_anti_expert) within the base's prefilter; "
        "the base stands for a model not given"
    )
    source = "Liu et al. 2021, arXiv:2105.03023 (DExperts)"

    expert: ModelName | None = None
    """The model to steer towards, as the server calls it."""
    anti_expert: ModelName | None = None
    """The model to steer away from, as the server calls it."""
    alpha: Strength = 2.0
    """How far; 2 and 3.2 in the paper."""
    prefilter: Mass = 0.9
    """Keep only the base's most likely tokens up to this mass; 1 is all."""
    expert_scaffold: ScaffoldEntry | None = None
    """The form of the expert's prompt; unset is the recipe's."""
    anti_expert_scaffold: ScaffoldEntry | None = None
    """The form of the anti-expert's prompt; unset is the recipe's."""

    @model_validator(mode="after")
    def _has_one(self) -> "ExpertAntiexpert":
        if self.expert is None and self.anti_expert is None:
            raise ValueError("needs 'expert' or 'anti_expert'")
        for role in ("expert", "anti_expert"):
            if getattr(self, role) is None and getattr(self, f"{role}_scaffold") is not None:
                raise ValueError(f"'{role}_scaffold' needs '{role}', or nobody reads it")
        return self

    def contribute(self, draft: Draft) -> None:
        streams = []
        # The base takes the place of whichever is missing.
        slopes = [1.0 * (self.expert is None) - 1.0 * (self.anti_expert is None)]
        for role, model, scaffold, slope in (
            ("expert", self.expert, self.expert_scaffold, 1.0),
            ("anti_expert", self.anti_expert, self.anti_expert_scaffold, -1.0),
        ):
            if model is not None:
                streams.append(StreamSpec(role=role, model=model, prompt=in_scaffold(scaffold)))
                slopes.append(slope)
        weights = (1.0, *(0.0 for _ in streams))
        params = self._params(draft, Space.LOGITS, weights, tuple(slopes), self.alpha)
        draft.couple(self.name, streams, params)


class Realign(Combination):
    name = "realign"
    summary = "Moves between this model and an aligned one, or beyond; 0 is off."
    formula = "z = (1 - weight) z + weight z_aligned"
    source = "Liu et al. 2024, arXiv:2402.02992 (decoding-time realignment)"

    aligned: ModelName
    """The aligned model, as the server calls it."""
    weight: Strength = 1.0
    """How far: 0 is this model, 1 the aligned one, more is beyond it."""
    aligned_scaffold: ScaffoldEntry | None = None
    """The form the aligned model was tuned on; unset is the recipe's."""

    def contribute(self, draft: Draft) -> None:
        stream = StreamSpec(
            role="aligned", model=self.aligned, prompt=in_scaffold(self.aligned_scaffold)
        )
        params = self._params(draft, Space.LOGITS, (1, 0), (-1, 1), self.weight)
        draft.couple(self.name, [stream], params)


class Blend(Combination):
    name = "blend"
    summary = "Mixes a guide's probabilities in where the base is unsure, by how sure both are."
    formula = (
        "p = (1 - a) p + a p_g where `when` holds, a = weight c; with by_confidence "
        "c = min(max p_g / (max p + max p_g) + 0.1 p(argmax p_g), 1), else 1"
    )
    source = "Gan, Li and Luo 2026, arXiv:2606.11201 (BlendIn)"

    guide: ModelName | None = None
    """The guiding model, as the server calls it; unset is the same model in `guide_scaffold`."""
    guide_scaffold: ScaffoldEntry | None = None
    """The form of the guide's prompt; unset is the recipe's."""
    weight: Share = 1.0
    """The guide's share, before its confidence."""
    by_confidence: bool = True
    """Whether the share depends on how sure guide and base are."""
    when: RuleGate | None = Field(default=RuleGate(top1_below=0.4), repr=False)
    """How unsure the base must be; unset is a best token less likely than 0.4."""

    @model_validator(mode="after")
    def _has_a_guide(self) -> "Blend":
        if self.guide is None and self.guide_scaffold is None:
            raise ValueError("needs 'guide', or 'guide_scaffold' for the same model")
        return self

    def contribute(self, draft: Draft) -> None:
        params = self._params(
            draft,
            Space.PROBABILITIES,
            (1, 0),
            (-1, 1),
            self.weight,
            by_confidence=self.by_confidence,
        )
        stream = StreamSpec(
            role="guide", model=self.guide or "", prompt=in_scaffold(self.guide_scaffold)
        )
        draft.couple(self.name, [stream], params)
