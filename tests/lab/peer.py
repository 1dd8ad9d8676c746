"""A server of the wire contract whose models are rules, to fail on demand."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from bosal.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    recipe_pb2,
    recipe_pb2_grpc,
)
from bosal_client.documents import recipe_message
from bosal_decoding.errors import DecodingError
from bosal_decoding.recipe import Recipe

RULES = ("eos_ramp", "token_weights", "used_token_weight", "temperature")

Speak = Callable[["Question"], str]


class Refusal(Exception):
    """Raised by a rule to end the call with a status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What a rule sees of a request."""

    model: str
    recipe: str
    texts: tuple[str, ...]
    seed: int

    @property
    def chance(self) -> float:
        """A number in [0, 1) that the seed alone decides."""
        digest = hashlib.sha256(str(self.seed).encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32


@dataclass
class Peer(
    generation_pb2_grpc.GenerationServiceServicer,
    recipe_pb2_grpc.RecipeServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
):
    """Answers with `speak`; keeps every question."""

    speak: Speak
    models: tuple[str, ...] = ("base", "tuned")
    recipes: tuple[str, ...] = ("plain", "steered")
    digest: str = "d1"
    version: str = "v1"
    finish_reason: "generation_pb2.FinishReason.ValueType" = generation_pb2.FINISH_REASON_STOP_TOKEN
    # Say a refusal's reason as a server of the contract does.
    has_reasons: bool = False
    # The API key it wants; "": none.
    key: str = ""
    address: str = ""
    questions: list[Question] = field(default_factory=list)
    tokenized: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> generation_pb2.GenerateResponse:
        self._check_key(context)
        spec = request.spec
        name = spec.recipe.partition("@")[0] or spec.inline_recipe.name
        texts = (
            tuple(message.text for message in spec.conversation.messages)
            if spec.WhichOneof("input") == "conversation"
            else (spec.instruction,)
        )
        question = Question(spec.model, name, texts, spec.seed)
        with self._lock:
            self.questions.append(question)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            text = self.speak(question)
        except Refusal as refusal:
            if self.has_reasons:
                details = ("grpc-status-details-bin", _status(refusal).SerializeToString())
                context.set_trailing_metadata((details,))
            context.abort(refusal.code, str(refusal))
        finally:
            with self._lock:
                self._at_once -= 1
        ids = list(text.encode())
        choice = generation_pb2.Choice(text=text, token_ids=ids)
        choice.ending.reason = self.finish_reason
        if spec.HasField("logprobs"):
            # A letter is what the base wanted, a digit its second choice, the rest beyond.
            ranks = [1 if letter.isalpha() else 2 if letter.isdigit() else 4 for letter in text]
            choice.logprobs.raw_rank.extend(ranks)
        started = generation_pb2.Started(
            model=spec.model,
            model_digest=self.digest,
            recipe_version=self.version,
            seed=spec.seed,
        )
        response = generation_pb2.GenerateResponse(started=started, choices=[choice])
        response.timings.total.FromMilliseconds(3)
        return response

    def GenerateStream(
        self, request: generation_pb2.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.GenerateStreamResponse]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")

    def Compare(
        self, request: generation_pb2.CompareRequest, context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.CompareResponse]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no comparisons here")

    def Score(
        self, request: generation_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> generation_pb2.ScoreResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no scores here")

    def Tokenize(
        self, request: generation_pb2.TokenizeRequest, context: grpc.ServicerContext
    ) -> generation_pb2.TokenizeResponse:
        """A token is a byte."""
        prompt = request.prompt
        texts = [message.text for message in prompt.conversation.messages] or [prompt.instruction]
        with self._lock:
            self.tokenized.append((request.model, prompt.recipe, tuple(texts)))
        ids = list(("\n".join(texts) + "\n").encode())
        return generation_pb2.TokenizeResponse(
            sequences=[generation_pb2.TokenSequence(token_ids=ids)]
        )

    def ListRecipes(
        self, request: recipe_pb2.ListRecipesRequest, context: grpc.ServicerContext
    ) -> recipe_pb2.ListRecipesResponse:
        recipes = [self._recipe(name) for name in self.recipes]
        return recipe_pb2.ListRecipesResponse(recipes=recipes)

    def ListRules(
        self, request: recipe_pb2.ListRulesRequest, context: grpc.ServicerContext
    ) -> recipe_pb2.ListRulesResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no rules here")

    def GetRecipe(
        self, request: recipe_pb2.GetRecipeRequest, context: grpc.ServicerContext
    ) -> recipe_pb2.GetRecipeResponse:
        if request.name.partition("@")[0] not in self.recipes:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no recipe is named {request.name}")
        return recipe_pb2.GetRecipeResponse(recipe=self._recipe(request.name))

    def _recipe(self, name: str) -> recipe_pb2.RecipeVersion:
        rules = [recipe_pb2.Rule(rule=rule) for rule in RULES]
        recipe = recipe_pb2.Recipe(name=name, rules=rules)
        return recipe_pb2.RecipeVersion(recipe=recipe, version=self.version)

    def CreateRecipe(
        self, request: recipe_pb2.CreateRecipeRequest, context: grpc.ServicerContext
    ) -> recipe_pb2.CreateRecipeResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no recipes are kept here")

    def ArchiveRecipe(
        self, request: recipe_pb2.ArchiveRecipeRequest, context: grpc.ServicerContext
    ) -> recipe_pb2.ArchiveRecipeResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no recipes are kept here")

    def ValidateRecipe(
        self, request: recipe_pb2.ValidateRecipeRequest, context: grpc.ServicerContext
    ) -> recipe_pb2.ValidateRecipeResponse:
        recipe = request.recipe
        if request.document:
            try:
                document = Recipe.parse(request.document).document()
            except DecodingError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            recipe = recipe_message(document, "recipe")
        if any(rule.rule == "broken" for rule in recipe.rules):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "rule broken cannot be honoured")
        return recipe_pb2.ValidateRecipeResponse(version=self.version, recipe=recipe)

    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        models = [
            model_pb2.Model(name=name, is_default=name == self.models[0], digest=self.digest)
            for name in self.models
        ]
        return model_pb2.ListModelsResponse(models=models)

    def GetServerInfo(
        self, request: model_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetServerInfoResponse:
        self._check_key(context)
        return model_pb2.GetServerInfoResponse(version="0.0.0", versions={"bosal": "0.0.0"})

    def _check_key(self, context: grpc.ServicerContext) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if self.key and given != f"Bearer {self.key}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "an API key is wanted")


def _status(refusal: Refusal) -> status_pb2.Status:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="bosal"))
    return status_pb2.Status(code=refusal.code.value[0], message=str(refusal), details=[info])


@contextmanager
def serving(peer: Peer) -> Iterator[Callable[[], None]]:
    """Serve a peer on a free port; the value kills it at once."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(peer, server)
    recipe_pb2_grpc.add_RecipeServiceServicer_to_server(peer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(peer, server)
    peer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    def kill() -> None:
        server.stop(None)

    try:
        yield kill
    finally:
        server.stop(None).wait()
