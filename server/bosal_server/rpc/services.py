"""The services of the contract, and how they are put on a server."""

from typing import Any, Final

from bosal.v1 import (
    experiment_pb2,
    experiment_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    recipe_pb2,
    recipe_pb2_grpc,
)
from bosal_server.config import ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.rpc.experiment_service import ExperimentService
from bosal_server.rpc.generation_service import GenerationService
from bosal_server.rpc.model_service import ModelService
from bosal_server.rpc.recipe_service import RecipeService
from bosal_server.security.access import Access

SERVICES: Final = (
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    recipe_pb2.DESCRIPTOR.services_by_name["RecipeService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"].full_name,
)


def add_services(
    core: GenerationCore, config: ServerConfig, server: Any, access: Access
) -> ExperimentService:
    """Let a server, of gRPC or what takes its place, answer every method; return what streams."""
    experiments = ExperimentService(core, access)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationService(core), server)
    recipe_pb2_grpc.add_RecipeServiceServicer_to_server(RecipeService(core), server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core, config), server)
    experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(experiments, server)
    return experiments
