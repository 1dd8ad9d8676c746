"""Models, rules and compiled recipes as protobuf."""

from bosal.v1 import model_pb2, recipe_pb2
from bosal_decoding.plan import CompiledRule
from bosal_decoding.rules.catalogue import RuleDescription
from bosal_server.recipe_desk import Validation
from bosal_server.rpc.documents import recipe_message, struct
from bosal_server.served_models import ServedModel


def validation(outcome: Validation) -> recipe_pb2.ValidateRecipeResponse:
    plan = outcome.plan
    message = recipe_pb2.ValidateRecipeResponse(
        version=plan.version,
        num_streams=plan.num_streams,
        scaffold_tokens=plan.scaffold_tokens,
        rules=[_compiled_rule(rule) for rule in plan.rules],
        notes=plan.notes,
        recipe=recipe_message(plan.recipe.document()),
        shared_tokens=len(plan.pinned_ids),
    )
    if outcome.control_seconds is not None:
        message.control.FromNanoseconds(round(outcome.control_seconds * 1e9))
    return message


def _compiled_rule(rule: CompiledRule) -> recipe_pb2.CompiledRule:
    return recipe_pb2.CompiledRule(
        rule=rule.rule,
        stage=rule.stage,
        params=struct(rule.params),
        token_ids={text: recipe_pb2.TokenIds(ids=ids) for text, ids in rule.token_ids.items()},
    )


def rule_description(rule: RuleDescription) -> recipe_pb2.RuleDescription:
    return recipe_pb2.RuleDescription(
        rule=rule.rule,
        summary=rule.summary,
        stage=rule.stage,
        formula=rule.formula,
        source=rule.source,
        params_schema=struct(rule.params_schema),
        package=rule.package,
    )


def model(served: ServedModel, *, is_default: bool) -> model_pb2.Model:
    return model_pb2.Model(
        name=served.name,
        is_default=is_default,
        architecture=served.architecture,
        digest=served.digest,
        num_parameters=served.num_parameters,
        vocabulary_size=served.vocabulary.size,
        context_tokens=served.context_tokens,
        dtype=served.dtype,
        runner=served.runner,
        runner_reason=served.runner_reason,
        device=served.device,
        cache_tokens=served.cache_tokens,
    )
