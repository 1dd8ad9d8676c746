import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bosal_server.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from bosal_server.model import LoadedModel, load_model


@pytest.fixture
def folder(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_llama_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_describes_itself(tiny_llama: LoadedModel) -> None:
    assert tiny_llama.name == "tiny"
    assert tiny_llama.architecture == "LlamaForCausalLM"
    assert tiny_llama.num_parameters == sum(w.numel() for w in tiny_llama.model.parameters())
    assert tiny_llama.context_tokens == 512
    assert tiny_llama.vocab_size == tiny_llama.vocabulary.size == 400
    assert (tiny_llama.dtype, tiny_llama.device) == ("float32", "cpu")
    assert tiny_llama.eos_ids == {0}
    assert len(tiny_llama.digest) == 32


def test_loading_prints_nothing(tiny_llama_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model("quiet", str(tiny_llama_folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_digest_depends_on_what_decides_the_output(
    file: str, folder: Path, tiny_llama: LoadedModel
) -> None:
    assert load_model("again", str(folder)).digest == tiny_llama.digest
    if file == "model.safetensors":
        weights = load_file(folder / file)
        weights["model.norm.weight"][0] += 1
        save_file(weights, folder / file, metadata={"format": "pt"})
    else:
        (folder / file).write_text((folder / file).read_text() + "\n")
    (folder / "README.md").write_text("not part of it")
    assert load_model("changed", str(folder)).digest != tiny_llama.digest


def test_small_models_run_in_float32_on_a_cpu(tiny_llama_folder: Path) -> None:
    assert load_model("auto", str(tiny_llama_folder)).dtype == "float32"
    assert load_model("half", str(tiny_llama_folder), dtype="bfloat16").dtype == "bfloat16"


def test_the_cache_is_sized_in_tokens(tiny_llama: LoadedModel) -> None:
    assert tiny_llama.runner(cache_tokens=1000).num_blocks == 32
    assert tiny_llama.runner().num_blocks == 65_536 // 32


def test_end_tokens_of_the_configuration_count_only_if_special(folder: Path) -> None:
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [0, 7, 99_999]}))
    assert load_model("eos", str(folder)).eos_ids == {0}


@pytest.mark.parametrize("source", ["/no/such/folder", "nobody/nothing", "not a name at all"])
def test_nothing_there_is_not_found(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="model 'gone'") as caught:
        load_model("gone", source)
    assert source in str(caught.value)


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load_model("empty", str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFound, match="not a directory"):
        load_model("file", str(tmp_path / "file"))


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def drop_a_weight(file: Path) -> None:
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def bend_a_weight(file: Path) -> None:
    weights = load_file(file)
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "damage", "cause"),
    [
        ("model.safetensors", cut, "not fully covered"),
        ("model.safetensors", lambda file: file.write_bytes(b"xx"), "header"),
        ("model.safetensors", Path.unlink, "it is missing"),
        ("model.safetensors", drop_a_weight, r"the first is 'model\.layers\.1\.mlp\.up_proj"),
        ("model.safetensors", bend_a_weight, "mismatch"),
        ("config.json", lambda file: file.write_text("{"), "no model type"),
        ("config.json", lambda file: file.write_text("{}"), "no model type"),
        ("tokenizer.json", cut, r"line \d+"),
    ],
)
def test_a_damaged_file_is_named_with_the_cause(
    name: str, damage: Callable[[Path], object], cause: str, folder: Path
) -> None:
    damage(folder / name)
    with pytest.raises(ModelCorrupt, match=cause) as caught:
        load_model("damaged", str(folder))
    assert f"file '{name}'" in str(caught.value)
    assert "'damaged'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_loaded(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelCorrupt, match=r"pytorch_model\.bin\) are not loaded"):
        load_model("pickled", str(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelCorrupt, match="model-00001-of-00002"):
        load_model("sharded", str(folder))


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json"):
        load_model("mute", str(folder))


def test_a_tokenizer_larger_than_the_head_is_refused(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = save(tmp_path, "llama", vocab_size=390, intermediate_size=32, **small)
    with pytest.raises(ModelUnsupported, match="400 tokens, its head only 390"):
        load_model("small", str(folder))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model_type": "zork"}, "does not know this model type"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "vit"}, "not a causal language model"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
    ],
)
def test_unknown_kinds_of_models_are_refused_before_their_weights_are_read(
    changes: dict[str, object], cause: str, folder: Path
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ModelUnsupported, match=cause):
        load_model("odd", str(folder))


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (folder / "own.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(ModelUnsupported, match="trust_remote_code"):
        load_model("own", str(folder))


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load_model("nan", str(folder))


def test_longrope_models_stay_within_their_original_context(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 64,
    }
    folder = save(
        tmp_path,
        "phi3",
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=0,
        original_max_position_embeddings=64,
        rope_parameters=rope,
    )
    assert load_model("long", str(folder)).context_tokens == 64


def test_keys_and_values_that_no_memory_holds_are_an_error_that_names_the_option(
    tiny_llama: LoadedModel,
) -> None:
    with pytest.raises(ModelError, match="no memory for keys and values.*--cache-tokens"):
        tiny_llama.runner(cache_tokens=2**44)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"device": "xpu:7"}, "device 'xpu:7' cannot be used"),
        ({"dtype": "float1"}, "did you mean 'float16'"),
    ],
)
def test_a_device_or_dtype_that_is_not_there_is_named(
    options: dict[str, Any], named: str, tiny_llama_folder: Path
) -> None:
    with pytest.raises(ModelError, match=re.escape(named)) as failure:
        load_model("tiny", str(tiny_llama_folder), **options)
    assert "\n" not in str(failure.value)
