"""Health, reflection, models and the metrics endpoint of a running server."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.live_server import LiveServer

from bosal_client import Client
from bosal_server.limits import Limits

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICES = (
    "bosal.v1.GenerationService",
    "bosal.v1.RecipeService",
    "bosal.v1.ModelService",
)


def test_every_service_is_healthy(server: LiveServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            request = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(request).status == SERVING


def test_an_unknown_service_has_no_health(server: LiveServer) -> None:
    request = health_pb2.HealthCheckRequest(service="bosal.v1.Nothing")
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as failure:
            stub.Check(request)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(request)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


def test_reflection_lists_the_services(server: LiveServer) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (response,) = stub.ServerReflectionInfo(iter([request]))
    listed = {service.name for service in response.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


def test_the_model_is_described(client: Client) -> None:
    (model,) = client.models()
    assert (model.name, model.is_default) == ("tiny", True)
    assert model.architecture == "LlamaForCausalLM"
    assert model.context_tokens == 512
    assert (model.runner, model.dtype, model.device) == ("torch", "float32", "cpu")
    assert model.cache_tokens > 0


def test_server_info_states_defaults_and_limits(client: Client) -> None:
    info = client.server_info()
    assert (info.default_model, info.default_recipe) == ("tiny", "plain")
    assert info.limits.max_choices == Limits().max_choices
    assert info.limits.max_request_bytes == Limits().max_request_bytes
    assert info.limits.max_running_choices == 64
    assert info.version == info.versions["bosal"]
    assert info.models == client.models()
    assert (info.kernels.backend, info.kernels.fused_rules) == ("torch", ())
