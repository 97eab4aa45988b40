"""How large a model is, by its config alone: no weight is read, and none is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from refine_dagster.models import architecture
from refine_dagster.models.language_model import ModelRef, load_config, reading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class ModelSize:
    """What a model's config says of its size.

    Attributes:
        linear: weights of the linear layers but the head: what nf4 packs and LoRA adapts.
        lora_width: inputs plus outputs of those layers, summed: LoRA parameters for each rank.
        linear_inputs: their inputs alone, summed.
        hidden, query, key_value, feed_forward: widths of the residual stream, of all query heads,
            of all key heads, and of the feed-forward layer.
        vocab, context: tokens in the vocabulary, and in the longest sequence.
    """

    parameters: int
    linear: int
    lora_width: int
    linear_inputs: int
    layers: int
    hidden: int
    query: int
    key_value: int
    feed_forward: int
    vocab: int
    context: int

    def cache_bytes(self, width: int) -> int:
        """Key-value cache of one token: keys and values of every layer."""
        return 2 * self.layers * self.key_value * width

    def layer_activations(self, width: int, copied: int = 0) -> int:
        """Bytes that one decoder layer keeps of one token for the backward pass.

        Of the residual stream: both norms' inputs in float32 and their results before and after
        weighing, 4 d + 8. Of the queries: themselves and the attention's output, 2 d. Keys and
        values, d each. Of the feed-forward layer: gate, its activation, up, and their product, 4 d.

        Args:
            width: bytes of the dtype, d.
            copied: bytes in which each linear layer's adapter keeps its own copy of the input; 0
                where adapter and model have one dtype and share it.
        """
        return (
            self.hidden * (4 * width + 8)
            + 2 * self.query * width
            + 2 * self.key_value * width
            + 4 * self.feed_forward * width
            + copied * self.linear_inputs // self.layers
        )


@lru_cache(maxsize=16)
def model_size(ref: ModelRef) -> ModelSize:
    """The size of a model, from its config alone.

    Raises:
        ModelError: there is no such config, or it is of no causal language model.
    """
    config = load_config(ref)
    with reading(ref, "config", "check that it is of a causal language model"):
        return config_size(config)


def config_size(config: PreTrainedConfig) -> ModelSize:
    """The size of a model of that config, built without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = [
        module.weight if isinstance(module, torch.nn.Linear) else module.weight.T
        for module in model.modules()
        # GPT-2's own linear layer is of a class of transformers, with the weight transposed.
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
        and module is not head
    ]
    queries, keys, head_width = architecture.query_heads(config)
    return ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        linear=sum(weight.numel() for weight in linear),
        lora_width=sum(sum(weight.shape) for weight in linear),
        linear_inputs=sum(weight.shape[1] for weight in linear),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query=queries * head_width,
        key_value=keys * head_width,
        feed_forward=architecture.feed_forward(config),
        vocab=config.vocab_size,
        context=architecture.context_length(config),
    )
