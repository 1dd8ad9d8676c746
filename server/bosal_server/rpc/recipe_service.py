"""RecipeService over gRPC."""

from typing import Any

import grpc.aio

from bosal.v1 import recipe_pb2 as pb
from bosal.v1 import recipe_pb2_grpc
from bosal_decoding.rules.catalogue import describe
from bosal_server.core import GenerationCore
from bosal_server.request_errors import MissingField, OutOfRange, located
from bosal_server.rpc import convert
from bosal_server.rpc.documents import recipe_document

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000


class RecipeService(recipe_pb2_grpc.RecipeServiceServicer):
    """Shows recipes and rules, and compiles recipes on trial."""

    def __init__(self, core: GenerationCore) -> None:
        self._core = core

    async def GetRecipe(
        self, request: pb.GetRecipeRequest, context: Context
    ) -> pb.GetRecipeResponse:
        if not request.name:
            raise MissingField("name", "which recipe?")
        recipe = self._core.recipes.get(request.name, field="name")
        is_default = recipe.name == self._core.default_recipe
        return pb.GetRecipeResponse(recipe=convert.recipe_version(recipe, is_default=is_default))

    async def ListRecipes(
        self, request: pb.ListRecipesRequest, context: Context
    ) -> pb.ListRecipesResponse:
        if request.page_size > _MAX_PAGE:
            raise OutOfRange("page_size", request.page_size, low=0, high=_MAX_PAGE)
        # The token is the name the page begins behind, so it stays good when recipes change.
        rest = [recipe for recipe in self._core.recipes if recipe.name > request.page_token]
        page = rest[: request.page_size or _DEFAULT_PAGE]
        return pb.ListRecipesResponse(
            recipes=[
                convert.recipe_version(recipe, is_default=recipe.name == self._core.default_recipe)
                for recipe in page
            ],
            next_page_token=page[-1].name if len(page) < len(rest) else "",
        )

    async def ValidateRecipe(
        self, request: pb.ValidateRecipeRequest, context: Context
    ) -> pb.ValidateRecipeResponse:
        if not request.HasField("recipe"):
            raise MissingField("recipe", "which recipe?")
        model = self._core.model(request.model)
        with located("recipe"):
            plan = await self._core.validate(recipe_document(request.recipe), model)
        return convert.validation(plan)

    async def ListRules(
        self, request: pb.ListRulesRequest, context: Context
    ) -> pb.ListRulesResponse:
        return pb.ListRulesResponse(rules=[convert.rule_description(rule) for rule in describe()])
