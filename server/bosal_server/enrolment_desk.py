"""Requests that name an experiment: assigned, exposed, followed; or served as the control."""

from dataclasses import replace

from bosal_server.acceptance import Acceptance
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.held_draws import HeldDraws
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.trial import NO_TRIAL, ExposedTrial, Trial, instruction_text
from bosal_server.generate_command import GenerateCommand
from bosal_server.request_errors import InvalidRequest, located
from bosal_server.shadowing import Shadowing
from bosal_server.started import Started


class EnrolmentDesk:
    """Where requests are accepted under the experiment they name; belongs to one event loop."""

    def __init__(
        self, *, acceptance: Acceptance, experiments: ExperimentManager, shadowing: Shadowing
    ) -> None:
        self._acceptance = acceptance
        self._experiments = experiments
        self._shadowing = shadowing

    async def begin(self, command: GenerateCommand) -> tuple[Started, Trial]:
        """Accept a request; under an experiment with its exposure queued, or as the control."""
        if command.experiment is None:
            return await self._acceptance.accept(command), NO_TRIAL
        _refuse_other_recipes(command)
        asked = command.experiment
        with located("experiment"):
            assignment = self._experiments.assign(asked.experiment, asked.unit, asked.force_variant)
        started = await self._acceptance.accept(command, assignment)
        if assignment.is_recorded:
            text = instruction_text(self._acceptance.messages(command.prompt)[0])
            exposed = self._experiments.expose(
                assignment,
                request_id=started.request_id,
                model_digest=started.model.digest,
                seed=started.seed,
                instruction=text,
                instruction_tokens=started.instruction_tokens,
            )
            if exposed is not None:
                started = replace(started, assignment=exposed)
                return started, self._trial(started, exposed, command, text)
            started = await self._acceptance.accept(command, assignment.unavailable())
        return started, NO_TRIAL

    def _trial(
        self, started: Started, exposed: Assignment, command: GenerateCommand, text: str
    ) -> Trial:
        spellings = started.model.vocabulary.token_bytes
        draws = HeldDraws(
            started.held,
            is_control=exposed.variant == exposed.experiment.control,
            token_bytes=lambda token: spellings[token] if token < len(spellings) else b"",
        )
        return ExposedTrial(
            self._experiments,
            exposed,
            text,
            draws,
            is_constrained=started.program is not None,
            after=self._shadowing.after(exposed, started, command),
        )


def _refuse_other_recipes(command: GenerateCommand) -> None:
    recipe = command.prompt.recipe
    field = "recipe" if isinstance(recipe, str) else "inline_recipe"
    for name, value in ((field, recipe), ("overrides", command.overrides)):
        if value:
            raise InvalidRequest(
                f"{name}: the experiment gives the recipe; none may be named or changed beside it",
                field=name,
            )
