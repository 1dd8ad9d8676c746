"""ModelService over gRPC."""

from typing import Any

import grpc.aio

from bosal.v1 import model_pb2 as pb
from bosal.v1 import model_pb2_grpc
from bosal_decoding import limits as decoding_limits
from bosal_decoding.fused_draw import backend_of
from bosal_decoding.fused_slots import FUSED_RULES
from bosal_server.comparison import MAX_RECIPES
from bosal_server.config import ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.rpc import constraints, descriptions

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Says what is served and what is accepted."""

    def __init__(self, core: GenerationCore, config: ServerConfig) -> None:
        self._core = core
        self._config = config

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._models())

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        limits = self._config.limits
        response = pb.GetServerInfoResponse(
            version=self._core.versions["bosal"],
            versions=self._core.versions,
            default_model=self._core.models.default,
            default_recipe=self._core.default_recipe,
            models=self._models(),
            kernels=self._kernels(),
            constraints=constraints.support(self._core.constraints.compiler),
            limits=pb.Limits(
                max_request_bytes=limits.max_request_bytes,
                max_choices=limits.max_choices,
                max_top_logprobs=limits.max_top_logprobs,
                max_rules=decoding_limits.MAX_RULES,
                max_stop_strings=decoding_limits.MAX_STOP_STRINGS,
                max_messages=limits.max_messages,
                max_running_choices=self._config.max_running,
                max_waiting_requests=self._config.max_waiting,
                max_prompt_bytes=limits.max_prompt_bytes,
                max_queue_seconds=self._config.max_queue_seconds,
                max_compared_recipes=MAX_RECIPES,
                max_scored_tokens=limits.max_scored_tokens,
            ),
        )
        constraints.add_limits(response.limits)
        return response

    def _kernels(self) -> pb.KernelSupport:
        backend = backend_of(self._config.device)
        return pb.KernelSupport(
            backend=backend, fused_rules=FUSED_RULES if backend == "triton" else ()
        )

    def _models(self) -> list[pb.Model]:
        return [
            descriptions.model(served, is_default=served.name == self._core.models.default)
            for served in self._core.models
        ]
