"""Recipes and rules over a real wire."""

import grpc
import pytest
from tests.live_server import LiveServer

from bosal.v1 import recipe_pb2 as pb
from bosal.v1 import recipe_pb2_grpc
from bosal_client import Client
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
