"""`bosal recipes` as a user runs it."""

import json
from pathlib import Path

import pytest
from google.protobuf import struct_pb2
from tests.clients.command import bosal
from tests.live_server import LiveServer

from bosal_client.documents import plain

GOOD = """\
# The best token, but not that one.
description: Greedy, without " the".
rules:
  - {rule: token_weights, weights: {" the": -5, yes: -1, zyzzyva: -1}, if_missing: skip}
  - {rule: top_k, k: 1}
"""
WRONG = "rules: [{rule: top_p, p: 3}]\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    return file


def test_lint_says_what_rules_became_and_what_is_wrong(
    server: LiveServer, mine: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WRONG)
    ended = bosal(server, "recipes", "lint", str(mine), str(wrong))
    assert ended.returncode == 1
    assert f"{mine}: ok, version " in ended.stdout
    assert "1 forward pass a token" in ended.stdout
    assert "us a token" in ended.stdout
    assert '" the" is ' in ended.stdout
    assert '"zyzzyva" is no token here' in ended.stdout
    assert f"{wrong}: error: rules[0].p" in ended.stdout
    good, bad = json.loads(bosal(server, "recipes", "lint", "--json", str(mine), str(wrong)).stdout)
    assert good["is_valid"]
    assert good["document"]["rules"][1] == {"rule": "top_k", "k": 1}
    assert good["control_seconds"] > 0
    assert (bad["is_valid"], bad["field"]) == (False, "document.rules[0].p")


def test_a_recipe_is_created_compared_used_and_archived(server: LiveServer, mine: Path) -> None:
    created = bosal(server, "recipes", "create", str(mine))
    assert created.returncode == 0, created.stderr
    reference, source, created_at, archived_at, _ = created.stdout.rstrip("\n").split("\t")
    assert reference.startswith("mine@")
    assert (source, archived_at) == ("created", "")
    assert created_at.endswith("Z")

    assert bosal(server, "recipes", "diff", reference, "mine").returncode == 0
    mine.write_text(GOOD.replace("k: 1", "k: 2"))
    changed = bosal(server, "recipes", "diff", "mine", str(mine))
    assert changed.returncode == 1
    assert '-  - {"rule": "top_k", "k": 1}' in changed.stdout
    assert '+  - {"rule": "top_k", "k": 2}' in changed.stdout

    record = json.loads(
        bosal(server, "generate", "Hi", f"--recipe={mine}", "--max-tokens=2", "--json").stdout
    )
    assert record["started"]["recipe_name"] == "inline"
    assert {"rule": "top_k", "k": 2} in record["started"]["recipe"]["rules"]

    shown = bosal(server, "recipes", "show", "mine", "--json")
    assert json.loads(shown.stdout)["source"] == "created"
    archived = bosal(server, "recipes", "archive", "mine")
    assert archived.stdout.startswith(f"{reference}\tcreated\t")
    versions = bosal(server, "recipes", "show", "mine", "--versions").stdout.split("\t")
    assert versions[3].endswith("Z")
    refused = bosal(server, "generate", "Hi", "--recipe=mine")
    assert refused.returncode == 2
    assert "archived" in refused.stderr


def test_a_recipe_is_written_the_same_whatever_order_the_wire_has() -> None:
    names = [f"{letter}{number}" for letter in "zya" for number in range(9)]
    one, other = struct_pb2.Struct(), struct_pb2.Struct()
    one.update({name: {"b": 1, "a": 2} for name in names})
    other.update({name: {"a": 2, "b": 1} for name in reversed(names)})
    assert list(plain(one)) == list(plain(other)) == sorted(names)
    assert list(plain(one)["z0"]) == ["a", "b"]
