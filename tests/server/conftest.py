"""A tiny random model with a tokenizer of its own, on disk and loaded; databases."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import create_engine, text
from tests.server import postgres
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from bosal_server.database import Database
from bosal_server.model import LoadedModel, load_model

_CORPUS = [
    "The cat sat on the mat and looked at the moon. The dog ran after the ball.",
    "Q: What is the capital of France?\nA: The capital of France is Paris.",
    "Über die Brücke läuft ein Bär; 你好，世界！ Привет, мир. 🙂🙃🎉 naïve café",
    "one two three four five six seven eight nine ten eleven twelve",
] * 4


def build_tokenizer() -> Any:
    """Train a byte-level BPE of 400 tokens; `<|end|>` is its only special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, eos_token="<|end|>")


def save_model(folder: Path, model_type: str, *, spread: float = 0.12, **config: object) -> Path:
    """Write a random model whose greedy text varies, with its tokenizer."""
    tokenizer = build_tokenizer()
    settings = AutoConfig.for_model(
        model_type, **{"vocab_size": len(tokenizer), "eos_token_id": 0, "bos_token_id": 0} | config
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        make: Any = AutoModelForCausalLM.from_config
        model = make(settings, dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(std=spread)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TINY_LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    return save_model


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama", **TINY_LLAMA)


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_folder: Path) -> LoadedModel:
    return load_model("tiny", str(tiny_llama_folder), dtype="float32")


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "bosal.db"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that runs for the tests."""
    folder = postgres.programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres.running(folder) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    name = f"test_{abs(hash(request.node.nodeid)):x}"
    server = create_engine(
        postgres_server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield postgres_server.rpartition("/")[0] + f"/{name}"
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_file"))
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database of each kind."""
    opened = Database.open(database_url)
    yield opened
    opened.close()
