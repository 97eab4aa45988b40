"""What differs between families of models, and what is made alike for all of them.

Families name the same size differently, or do not state it; some write dropout into functions that
no switch of a module reaches; some learn a vector for each position of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from refine_dagster.models.padding import positions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Names of the longest sequence. Models without learned positions state the one they were trained
# on (Bloom, MPT), or none (Mamba).
_CONTEXT = ("max_position_embeddings", "seq_length", "max_seq_len", "n_positions")
# On which Bloom and Mamba were trained.
UNSTATED_CONTEXT = 2048
_FEED_FORWARD = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
# What makes two readings of one text differ while a model is in training mode.
_NOISE = ("drop", "jitter")
# Of a generation config: which tokens begin, end and pad a text, and what is no matter of sampling.
_GENERATION = (
    "_from_model_config",
    "bos_token_id",
    "eos_token_id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "use_cache",
)


def context_length(config: PreTrainedConfig) -> int:
    """The longest sequence of a model, in tokens."""
    return _first(config, _CONTEXT) or UNSTATED_CONTEXT


def feed_forward(config: PreTrainedConfig) -> int:
    """Width of the feed-forward layer."""
    return _first(config, _FEED_FORWARD) or 4 * int(config.hidden_size)


def query_heads(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Query heads, key heads, and the width of each; zeros for a model without attention."""
    heads = _first(config, ("num_attention_heads",))
    if not heads:
        return 0, 0, 0
    keys = _first(config, ("num_key_value_heads",)) or heads
    # Falcon's: new models have groups, the others have one key head for all.
    if getattr(config, "new_decoder_architecture", False):
        keys = int(config.num_kv_heads)
    elif getattr(config, "multi_query", False):
        keys = 1
    return heads, keys, _first(config, ("head_dim",)) or int(config.hidden_size) // heads


def _first(config: PreTrainedConfig, names: tuple[str, ...]) -> int | None:
    """The first of these fields that has a value."""
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)


def text_width(model: PreTrainedModel) -> int:
    """Width of the last hidden states. OPT's smallest models project theirs down."""
    head: Any = model.get_output_embeddings()
    return int(head.weight.shape[1])


def settle(model: PreTrainedModel) -> None:
    """Make a loaded model's readings and files depend on its weights alone.

    - No dropout and no other noise in training mode: an algorithm that compares two readings of one
      text would see a difference where there is none. Modules, and functions that read their rate
      from a module or the config, are all reached.
    - A generation config with nothing of sampling, which requests state themselves. Published ones
      may contradict themselves, and `save_pretrained` refuses to write those.
    - Positions that do not count padding, where the model learned them and would count it.
    """
    from transformers import GenerationConfig, PreTrainedConfig

    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            _silence(config)
        _silence(module)
        if type(module).__name__.startswith("Dropout"):
            module.p = 0.0
    published = model.generation_config
    if published is not None:
        kept = {name: getattr(published, name, None) for name in _GENERATION}
        model.generation_config = GenerationConfig(
            **{name: value for name, value in kept.items() if value is not None}
        )
    if _counts_padding(model):
        # The trainers call the backbone with a mask and no positions.
        model.base_model.register_forward_pre_hook(_with_positions, with_kwargs=True)


def _silence(owner: Any) -> None:
    for name, value in vars(owner).items():
        if isinstance(value, float) and any(noise in name for noise in _NOISE):
            setattr(owner, name, 0.0)


def _counts_padding(model: PreTrainedModel) -> bool:
    """Whether the model has an embedding of positions (GPT-2's `wpe`)."""
    import torch

    return any(
        isinstance(module, torch.nn.Embedding)
        and module is not model.get_input_embeddings()
        and module.num_embeddings >= context_length(model.config)
        for module in model.modules()
    )


def _with_positions(
    _module: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]] | None:
    mask = named.get("attention_mask")
    if mask is None or named.get("position_ids") is not None:
        return None
    return arguments, {**named, "position_ids": positions(mask)}
