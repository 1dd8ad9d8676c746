"""A server whose operator judges what leaves."""

from pathlib import Path

import pytest
from tests.live_server import LiveServer

from bosal_client import BosalError, Client

ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]


def test_an_answer_leaves_as_far_as_the_operator_lets_it(tiny_model: Path) -> None:
    options = (f"--model=tiny={tiny_model}", "--delivery-filter=tests.delivery_judge:judge")
    texts: list[str] = []
    with LiveServer(*options) as server, Client(server.address) as client:
        assert client.generate("Hi", recipe="plain", max_tokens=2, seed=1).choices
        stream = client.stream("Hi", recipe="plain", max_tokens=200, seed=1, overrides=ENDLESS)
        with pytest.raises(BosalError) as caught:
            texts.extend(batch.text for batch in stream)
        assert caught.value.reason == "WITHHELD"
        assert len("".join(texts)) <= 20
        assert server.stop() == 0
