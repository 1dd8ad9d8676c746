"""Loads a model and its tokenizer from safetensors files, or says what is wrong with them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError

from bosal_decoding.errors import UnsupportedTokenizer
from bosal_decoding.vocabulary import Vocabulary, end_ids
from bosal_server.engine.kv_pool import KVPool, LayerShape
from bosal_server.engine.probe import probe
from bosal_server.engine.torch_runner import TorchRunner
from bosal_server.errors import ModelCorrupt, ModelError, ModelUnsupported
from bosal_server.model_files import (
    TOKENIZER_FILES,
    content_digest,
    count_parameters,
    first_line,
    model_folder,
    weight_files,
)
from bosal_server.precision import DTYPES, check_device, choose_dtype

_SERVED_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_DEFAULT_CACHE_BYTES = 4 << 30
_DEFAULT_CACHE_TOKENS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A causal language model with everything the server says about it."""

    name: str
    model: transformers.PreTrainedModel
    layers: tuple[LayerShape, ...]
    vocabulary: Vocabulary
    digest: str  # of weights, configuration and tokenizer
    architecture: str
    num_parameters: int
    context_tokens: int
    vocab_size: int  # rows of the head, which may exceed the vocabulary
    dtype: str
    device: str

    @property
    def eos_ids(self) -> frozenset[int]:
        return self.vocabulary.eos_ids

    def release_weights(self) -> None:
        """Give their memory back; nothing can be computed with this object any more."""
        for weight in self.model.parameters():
            # Not by moving it: a trace of the model may still know the parameter.
            weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)

    def runner(self, *, cache_tokens: int | None = None) -> TorchRunner:
        """Build the torch runner with room for so many tokens; unset: 65,536 or 4 GiB.

        Raises:
            ModelError: the device has no memory for so many.
        """
        per_token = KVPool.bytes_per_token(self.layers, DTYPES[self.dtype])
        if cache_tokens is None:
            cache_tokens = min(_DEFAULT_CACHE_TOKENS, _DEFAULT_CACHE_BYTES // per_token)
        num_blocks = -(-cache_tokens // TorchRunner.block_size)
        try:
            return TorchRunner(self.model, self.layers, num_blocks=num_blocks)
        except RuntimeError as error:
            # What torch raises where memory is short: of its own kind on CUDA, a bare one on a CPU.
            if not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
                raise
            size = num_blocks * TorchRunner.block_size * per_token / 2**30
            raise ModelError(
                f"model '{self.name}': {self.device} has no memory for keys and values of "
                f"{cache_tokens:,} tokens, {size:,.1f} GiB; --cache-tokens sets how many"
            ) from None


def load_model(
    name: str,
    source: str,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load from a local directory or, if there is none of that name, from the hub.

    Raises:
        ModelNotFound: there is nothing at `source`.
        ModelCorrupt: a file is missing, cut off or does not fit the others.
        ModelUnsupported: the model could not be served exactly.
        ModelError: there is no such device or dtype.
    """
    check_device(name, device)
    with _quiet():
        folder = model_folder(name, source, trust_remote_code)
        weights = weight_files(name, folder)
        num_parameters = sum(count_parameters(name, file) for file in weights)
        config = _load_config(name, folder, trust_remote_code)
        _check_config(name, config)
        torch_dtype = choose_dtype(name, dtype, device, num_parameters)
        model = _load_weights(name, folder, config, torch_dtype, trust_remote_code)
        _check_model(name, model)
        vocabulary = _load_vocabulary(name, folder, model, trust_remote_code)
        model.to(device)
        context_tokens = _context_tokens(name, model)
        layers = probe(name, model, context_tokens=context_tokens)
    return LoadedModel(
        name=name,
        model=model,
        layers=layers,
        vocabulary=vocabulary,
        digest=content_digest(folder, weights),
        architecture=type(model).__name__,
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        context_tokens=context_tokens,
        vocab_size=model.config.get_text_config().vocab_size,
        dtype=str(torch_dtype).removeprefix("torch."),
        device=str(device),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers and the hub from writing to the terminal."""
    # Neither package types its logging switches.
    logging: Any = transformers.utils.logging
    hub: Any = huggingface_hub.utils
    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    had_hub_bars = not hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
        if had_hub_bars:
            hub.enable_progress_bars()


def _load_config(name: str, folder: Path, trust_remote_code: bool) -> Any:
    file = folder / "config.json"
    try:
        model_type = json.loads(file.read_text())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(name, file.name, f"no model type: {first_line(error)}") from None
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (ValueError, KeyError, ImportError) as error:
        if "trust_remote_code" in str(error):
            cause = "it brings code of its own, which runs only with trust_remote_code"
        else:
            cause = "transformers does not know this model type"
        raise ModelUnsupported(name, str(model_type), cause) from None
    except Exception as error:  # a field of the wrong type: each configuration has its own checks
        raise ModelCorrupt(name, file.name, first_line(error)) from None


def _check_config(name: str, config: Any) -> None:
    """Refuse by name what is known not to fit, before its weights are read."""
    text = config.get_text_config()
    architecture = (config.architectures or [config.model_type])[0]
    other_layers = sorted(set(getattr(text, "layer_types", None) or ()) - _SERVED_LAYER_TYPES)
    if config.is_encoder_decoder:
        cause = "it is an encoder-decoder model"
    elif other_layers:
        cause = f"it has layers of type {', '.join(other_layers)}"
    elif getattr(text, "kv_lora_rank", None):
        cause = "its keys and values are latent (MLA)"
    elif type(
        config
    ) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in (
        getattr(config, "auto_map", None) or {}
    ):
        cause = "it is not a causal language model"
    else:
        return
    raise ModelUnsupported(name, architecture, cause)


def _load_weights(
    name: str, folder: Path, config: Any, dtype: torch.dtype, trust_remote_code: bool
) -> Any:
    loader: Any = transformers.AutoModelForCausalLM
    try:
        model, report = loader.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ModelCorrupt(name, "model.safetensors", first_line(error)) from None
    missing = sorted(report["missing_keys"])
    if missing:
        cause = f"{len(missing)} weights are missing, the first is '{missing[0]}'"
        raise ModelCorrupt(name, "model.safetensors", cause)
    return model


def _check_model(name: str, model: Any) -> None:
    if getattr(model, "_is_stateful", False):
        cause = "it keeps a recurrent state"
    elif not getattr(model, "_supports_attention_backend", False):
        cause = "its attention does not go through transformers' attention interface"
    else:
        return
    raise ModelUnsupported(name, type(model).__name__, cause)


def _load_vocabulary(name: str, folder: Path, model: Any, trust_remote_code: bool) -> Vocabulary:
    file = next((file for file in TOKENIZER_FILES if (folder / file).is_file()), None)
    if file is None:
        raise ModelCorrupt(name, "tokenizer.json", "it is missing")
    # AutoTokenizer rebuilds some families' tokenizers by rules of its own; tokenizer.json is what
    # the model was trained with.
    is_fast = file == "tokenizer.json"
    loader: Any = transformers.PreTrainedTokenizerFast if is_fast else transformers.AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the tokenizers library raises bare Exception on a bad file
        raise ModelCorrupt(name, file, first_line(error)) from None
    head_rows = model.config.get_text_config().vocab_size
    try:
        vocabulary = Vocabulary.from_tokenizer(
            tokenizer, eos_ids=end_ids(tokenizer, model, head_rows)
        )
    except UnsupportedTokenizer as error:
        raise ModelUnsupported(name, type(model).__name__, str(error)) from None
    if vocabulary.size > head_rows:
        cause = f"its tokenizer has {vocabulary.size} tokens, its head only {head_rows} rows"
        raise ModelUnsupported(name, type(model).__name__, cause)
    return vocabulary


def _context_tokens(name: str, model: Any) -> int:
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not limit:
        cause = "its configuration states no context length"
        raise ModelUnsupported(name, type(model).__name__, cause)
    # Longrope changes every position's angle once a batch holds one long sequence; below the
    # original length it never does.
    rope = getattr(config, "rope_parameters", None) or {}
    per_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    for part in per_layer_type or [rope]:
        if part.get("rope_type") == "longrope":
            limit = min(limit, part.get("original_max_position_embeddings", limit))
    return int(limit)
