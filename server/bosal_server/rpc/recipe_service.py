"""RecipeService over gRPC."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import grpc.aio

from bosal.v1 import recipe_pb2 as pb
from bosal.v1 import recipe_pb2_grpc
from bosal_decoding.rules.catalogue import describe
from bosal_server.core import GenerationCore
from bosal_server.recipe_entry import RecipeEntry
from bosal_server.request_errors import InvalidRequest, MissingField, OutOfRange, located
from bosal_server.rpc import descriptions
from bosal_server.rpc.documents import recipe_document, recipe_version
from bosal_server.security.caller import current_caller

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
# A page ends behind the recipe that makes it larger than this.
_MAX_PAGE_BYTES = 4 * 1024 * 1024


class RecipeService(recipe_pb2_grpc.RecipeServiceServicer):
    """Shows, keeps and archives recipes, shows rules, and compiles recipes on trial."""

    def __init__(self, core: GenerationCore) -> None:
        self._models = core.models
        self._desk = core.recipe_desk
        self._store = core.recipes

    async def CreateRecipe(
        self, request: pb.CreateRecipeRequest, context: Context
    ) -> pb.CreateRecipeResponse:
        caller = current_caller.get()
        with _given(request) as document:
            entry, has_changed = await self._desk.create(document, caller=caller)
        return pb.CreateRecipeResponse(recipe=self._version(entry), has_changed=has_changed)

    async def GetRecipe(
        self, request: pb.GetRecipeRequest, context: Context
    ) -> pb.GetRecipeResponse:
        _required(request.name)
        entry = await self._desk.find(request.name)
        return pb.GetRecipeResponse(recipe=self._version(entry))

    async def ListRecipes(
        self, request: pb.ListRecipesRequest, context: Context
    ) -> pb.ListRecipesResponse:
        if request.page_size > _MAX_PAGE:
            raise OutOfRange("page_size", request.page_size, low=0, high=_MAX_PAGE)
        # The token is the last name or version of the page before, so it stays good when
        # recipes come and go.
        if request.name:
            rest = _behind(self._store.versions(request.name), request.page_token)
        else:
            rest = self._store.in_force(behind=request.page_token)
        page: list[pb.RecipeVersion] = []
        size = 0
        for entry in islice(rest, request.page_size or _DEFAULT_PAGE):
            page.append(self._version(entry))
            size += page[-1].ByteSize()
            if size > _MAX_PAGE_BYTES:
                break
        token = ""
        if next(rest, None) is not None:
            token = page[-1].version if request.name else page[-1].recipe.name
        return pb.ListRecipesResponse(recipes=page, next_page_token=token)

    async def ArchiveRecipe(
        self, request: pb.ArchiveRecipeRequest, context: Context
    ) -> pb.ArchiveRecipeResponse:
        _required(request.name)
        entries = await self._desk.archive(request.name)
        return pb.ArchiveRecipeResponse(recipes=[self._version(entry) for entry in entries])

    async def ValidateRecipe(
        self, request: pb.ValidateRecipeRequest, context: Context
    ) -> pb.ValidateRecipeResponse:
        model = self._models.find(request.model)
        caller = current_caller.get()
        with _given(request) as document:
            validation = await self._desk.validate(document, model, caller=caller)
        return descriptions.validation(validation)

    async def ListRules(
        self, request: pb.ListRulesRequest, context: Context
    ) -> pb.ListRulesResponse:
        return pb.ListRulesResponse(
            rules=[descriptions.rule_description(rule) for rule in describe()]
        )

    def _version(self, entry: RecipeEntry) -> pb.RecipeVersion:
        in_force = self._desk.default_version
        return recipe_version(entry, is_default=(entry.name, entry.version) == in_force)


@contextmanager
def _given(
    request: pb.CreateRecipeRequest | pb.ValidateRecipeRequest,
) -> Iterator[dict[str, Any] | str]:
    """Read the recipe of a request, and say of errors that they are about it.

    Raises:
        MissingField: there is none, or there are two.
    """
    if request.HasField("recipe") == bool(request.document):
        raise MissingField("recipe", "give a recipe, or its text as `document`")
    with located("document" if request.document else "recipe"):
        yield request.document or recipe_document(request.recipe)


def _required(name: str) -> None:
    if not name:
        raise MissingField("name", "which recipe?")


def _behind(versions: Sequence[RecipeEntry], token: str) -> Iterator[RecipeEntry]:
    """The versions that follow the one a page ended with."""
    if not token:
        return iter(versions)
    for at, entry in enumerate(versions):
        if entry.version == token:
            return iter(versions[at + 1 :])
    raise InvalidRequest("no page ended there", field="page_token")
