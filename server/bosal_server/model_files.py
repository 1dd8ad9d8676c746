"""The files of a model on disk: where they are, whether they are whole, what they hash to."""

import json
from hashlib import blake2b
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from bosal_server.errors import ModelCorrupt, ModelNotFound

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_CONFIG_FILES = ("config.json", "generation_config.json")


def model_folder(name: str, source: str, trust_remote_code: bool) -> Path:
    """Return the directory of the model's files, fetched from the hub if need be."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(name, source, "the directory has no config.json")
        return folder
    if folder.exists():
        raise ModelNotFound(name, source, "it is a file, not a directory")
    patterns = ["*.safetensors", "*.safetensors.index.json", *_CONFIG_FILES, *TOKENIZER_FILES]
    if trust_remote_code:
        patterns.append("*.py")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                source, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except HFValidationError:
        raise ModelNotFound(name, source, "no such directory, nor a name on the hub") from None
    except LocalEntryNotFoundError:
        cause = "no such directory, not in the local cache, and the hub cannot be reached"
        raise ModelNotFound(name, source, cause) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelNotFound(name, source, first_line(error)) from None


def weight_files(name: str, folder: Path) -> list[Path]:
    index_file = folder / "model.safetensors.index.json"
    if index_file.is_file():
        try:
            shards = sorted(set(json.loads(index_file.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelCorrupt(name, index_file.name, first_line(error)) from None
        for shard in shards:
            if not (folder / shard).is_file():
                raise ModelCorrupt(name, shard, f"it is missing, though {index_file.name} names it")
        return [folder / shard for shard in shards]
    weights = folder / "model.safetensors"
    if not weights.is_file():
        others = [file.name for file in (*folder.glob("*.bin"), *folder.glob("*.pt"))]
        hint = f"; pickled weights ({others[0]}) are not loaded" if others else ""
        raise ModelCorrupt(name, weights.name, f"it is missing{hint}")
    return [weights]


def count_parameters(name: str, file: Path) -> int:
    """Read a weight file's header, which must account for every byte of it."""
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(name, file.name, first_line(error)) from None
    return sum(torch.Size(shape).numel() for shape in shapes)


def content_digest(folder: Path, weight_files: list[Path]) -> str:
    """Hash the content of everything that decides the output."""
    names = (*_CONFIG_FILES, *TOKENIZER_FILES)
    files = [folder / name for name in names if (folder / name).is_file()] + weight_files
    total = blake2b(digest_size=16)
    for file in sorted(files, key=lambda file: file.name):
        content = blake2b(digest_size=32)
        with file.open("rb") as stream:
            while part := stream.read(1 << 22):
                content.update(part)
        total.update(file.name.encode() + b"\0" + content.digest())
    return total.hexdigest()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
