"""Recipes and rules over a real wire."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer

from bosal.v1 import recipe_pb2 as pb
from bosal.v1 import recipe_pb2_grpc
from bosal_client import Client, InvalidRequest, NotFound
from bosal_decoding.recipe import Recipe, load_shipped
from bosal_decoding.rules.catalogue import RULES


def test_every_shipped_recipe_is_listed_by_name(client: Client) -> None:
    shipped = load_shipped()
    listed = client.recipes()
    assert [recipe.name for recipe in listed] == sorted(shipped)
    for recipe in listed:
        assert recipe.version == shipped[recipe.name].version
        assert Recipe.parse(recipe.document) == shipped[recipe.name]
        assert recipe.is_default == (recipe.name == "plain")


def test_a_pinned_version_is_found(client: Client) -> None:
    latest = client.recipe("steered")
    assert client.recipe(f"steered@{latest.version}") == latest


def test_pages_cover_every_recipe_once(server: LiveServer) -> None:
    names: list[str] = []
    token = ""
    with grpc.insecure_channel(server.address) as channel:
        stub = recipe_pb2_grpc.RecipeServiceStub(channel)
        while True:
            page = stub.ListRecipes(pb.ListRecipesRequest(page_size=1, page_token=token))
            assert len(page.recipes) == 1
            names.append(page.recipes[0].recipe.name)
            token = page.next_page_token
            if not token:
                break
    assert names == sorted(load_shipped())


def test_a_page_may_not_be_huge(server: LiveServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = recipe_pb2_grpc.RecipeServiceStub(channel)
        with pytest.raises(grpc.RpcError) as failure:
            stub.ListRecipes(pb.ListRecipesRequest(page_size=1001))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def document(k: int) -> dict[str, Any]:
    return {"name": "mine", "rules": [{"rule": "top_k", "k": k}]}


@pytest.fixture
def mine(client: Client) -> Iterator[str]:
    """The name of a created recipe that no other test sees."""
    client.create_recipe(document(1))
    yield "mine"
    client.archive_recipe("mine")


def test_a_created_recipe_serves_and_is_listed(client: Client, mine: str) -> None:
    created = client.create_recipe(document(2))
    assert created == client.recipe(mine)
    assert (created.source, created.is_default, created.archived_at) == ("created", False, None)
    assert created.created_at is not None
    assert created.document["rules"] == document(2)["rules"]
    assert [one.source for one in client.recipes() if one.name == mine] == ["created"]
    generation = client.generate("Hello", recipe=mine, max_tokens=3)
    assert generation.started.recipe_version == created.version
    assert generation.started.recipe_name == mine


def test_an_earlier_version_stays_within_reach(client: Client, mine: str) -> None:
    first = client.create_recipe(document(1))
    second = client.create_recipe(document(2))
    versions = client.recipes(versions_of=mine)
    assert [one.version for one in versions][:2] == [second.version, first.version]
    started = client.generate("Hello", recipe=f"mine@{first.version}", max_tokens=1).started
    assert started.recipe_version == first.version


def test_archived_recipes_no_longer_serve(client: Client, mine: str) -> None:
    version = client.recipe(mine).version
    gone = client.archive_recipe(mine)
    assert version in [one.version for one in gone]
    assert all(one.archived_at for one in gone)
    with pytest.raises(InvalidRequest) as refused:
        client.generate("Hello", recipe=mine)
    assert (refused.value.reason, refused.value.field) == ("RECIPE_ARCHIVED", "spec.recipe")
    assert mine not in [one.name for one in client.recipes()]


def test_versions_come_in_pages(server: LiveServer, client: Client, mine: str) -> None:
    wanted = {client.create_recipe(document(k)).version for k in (1, 2, 3)}
    found: list[str] = []
    token = ""
    with grpc.insecure_channel(server.address) as channel:
        stub = recipe_pb2_grpc.RecipeServiceStub(channel)
        while True:
            request = pb.ListRecipesRequest(name=mine, page_size=1, page_token=token)
            page = stub.ListRecipes(request)
            found += [one.version for one in page.recipes]
            token = page.next_page_token
            if not token:
                break
        with pytest.raises(grpc.RpcError) as failure:
            stub.ListRecipes(pb.ListRecipesRequest(name=mine, page_token="nowhere"))
    assert wanted <= set(found)
    assert len(found) == len(set(found))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("wrong", "code", "field"),
    [
        ({"name": "plain"}, "ALREADY_EXISTS", "recipe.name"),
        ({"rules": []}, "INVALID_ARGUMENT", "recipe.name"),
        ({"name": "x", "rules": [{"rule": "top_p", "p": 3}]}, "INVALID_ARGUMENT", "rules[0].p"),
        (
            {"name": "x", "rules": [{"rule": "token_weights", "weights": {"zyzzyva": 1}}]},
            "INVALID_ARGUMENT",
            "rules[0].weights",
        ),
    ],
)
def test_a_recipe_no_model_could_run_is_not_kept(
    client: Client, wrong: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.create_recipe(wrong)
    assert isinstance(refused.value.__context__, grpc.RpcError)
    assert refused.value.__context__.code() is grpc.StatusCode[code]
    assert field in refused.value.field
    with pytest.raises(NotFound):
        client.recipe("x")


def test_a_shipped_recipe_is_not_archived(client: Client) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.archive_recipe("steered")
    assert (refused.value.reason, refused.value.field) == ("RECIPE_READ_ONLY", "name")


def test_overrides_are_echoed(client: Client) -> None:
    overrides = [{"rule": "temperature", "value": 0}, {"rule": "top_k", "k": 5}]
    started = client.generate("Hello", recipe="rules", overrides=overrides, max_tokens=1).started
    assert list(started.overrides) == overrides
    assert started.base_version == client.recipe("rules").version
    assert started.recipe_version != started.base_version
    assert {"rule": "top_k", "k": 5} in started.recipe["rules"]
    plain = client.generate("Hello", recipe="rules", max_tokens=1).started
    assert (plain.overrides, plain.base_version) == ((), "")


def test_validation_shows_what_rules_became(client: Client) -> None:
    document = {
        "rules": [
            {"rule": "token_weights", "weights": {" the": -5, "zyzzyva": -1}, "if_missing": "skip"},
            {"rule": "top_p", "p": 0.9},
        ]
    }
    validation = client.validate(document)
    assert validation.version == Recipe.parse(document).version
    assert validation.num_streams == 1
    weights, top_p = validation.rules
    assert (weights.rule, weights.stage) == ("token_weights", "shape")
    (the,) = weights.token_ids[" the"]
    assert client.tokenize(" the")[0].token_ids == (the,)
    assert (top_p.stage, top_p.params["p"]) == ("truncate", 0.9)
    assert any("zyzzyva" in note for note in validation.notes)


def test_the_catalogue_describes_every_rule(client: Client) -> None:
    rules = client.rules()
    assert [rule.rule for rule in rules] == list(RULES)
    for rule in rules:
        assert rule.summary
        assert rule.formula
        assert rule.source
        assert rule.params_schema["type"] == "object"
