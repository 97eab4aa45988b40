"""Tiny random models of the published families: two layers, width 32, each with its own habits.

`Family.write` saves a model as `save_pretrained` does. Sizes are small, but what differs between
families is as published: tied weights, dropout, windows, names of config fields, special tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.families.tokenizers import byte_fallback, byte_level

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WIDTH = 32
LAYERS = 2
HEADS = 4
CONTEXT = 512
# Shorter than the tests' texts.
WINDOW = 16
# Rows of the embedding that no token has, as in Qwen.
SPARE = 8

_TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        config: name of the config's class in `transformers`.
        tokenizer: makes the tokenizer.
        fields: of the config, beside the special tokens and the vocabulary.
        tied: whether the output layer is the embedding.
    """

    name: str
    config: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    fields: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False

    def write(self, folder: Path, seed: int = 3) -> Path:
        """Save a model with random weights and its tokenizer; return the folder."""
        tokenizer = self.tokenizer()
        with_seed(self.model(tokenizer), seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def model(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """A model for the tokenizer."""
        import transformers

        common = {
            "vocab_size": len(tokenizer) + SPARE,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": self.tied,
        }
        config = getattr(transformers, self.config)(**common, **self.fields)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
        return model


@dataclass(frozen=True)
class MultimodalGemma(Family):
    """Gemma 3 as it is published from 4 B on: the text model inside a model that also sees."""

    def model(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """A model for the tokenizer, with a tiny vision tower."""
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration

        special = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        text = {**self.fields, "vocab_size": len(tokenizer) + SPARE, **special}
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        }
        config = Gemma3Config(
            text_config=text, vision_config=vision, mm_tokens_per_image=4, **special
        )
        model: PreTrainedModel = Gemma3ForConditionalGeneration(config)
        return model


def with_seed(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The model with weights drawn wide enough that its greedy choices vary."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() > 1 and "A_log" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
    return model


def _gpt2_end() -> PreTrainedTokenizerFast:
    return byte_level(end="<|endoftext|>", start=None)


def _llama() -> PreTrainedTokenizerFast:
    return byte_fallback(end="</s>", start="<s>")


def _gemma() -> PreTrainedTokenizerFast:
    return byte_fallback(end="<eos>", start="<bos>", pad="<pad>")


def _qwen() -> PreTrainedTokenizerFast:
    return byte_level(end="<|im_end|>", pad="<|endoftext|>")


_GEMMA = {
    **_GROUPED,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
}
FAMILIES = (
    Family(
        "gpt2",
        "GPT2Config",
        _gpt2_end,
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT},
        tied=True,
    ),
    Family("gpt_neox", "GPTNeoXConfig", _gpt2_end, {**_TEXT, "rotary_pct": 0.5}),
    Family(
        "opt",
        "OPTConfig",
        lambda: byte_level(end="</s>", start="</s>", pad="<pad>"),
        {
            "hidden_size": WIDTH,
            "word_embed_proj_dim": 16,
            "ffn_dim": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            "do_layer_norm_before": False,
        },
        tied=True,
    ),
    Family(
        "bloom",
        "BloomConfig",
        lambda: byte_level(end="</s>", pad="<pad>"),
        {
            "hidden_size": WIDTH,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "hidden_dropout": 0.1,
            "attention_dropout": 0.1,
        },
        tied=True,
    ),
    Family(
        "falcon",
        "FalconConfig",
        _gpt2_end,
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            "hidden_dropout": 0.1,
            "attention_dropout": 0.1,
        },
        tied=True,
    ),
    Family("mistral", "MistralConfig", _llama, {**_GROUPED, "sliding_window": WINDOW}),
    Family("llama", "LlamaConfig", _llama, _GROUPED),
    Family("qwen2", "Qwen2Config", _qwen, _GROUPED, tied=True),
    Family("qwen3", "Qwen3Config", _qwen, {**_GROUPED, "head_dim": 16}, tied=True),
    Family(
        "phi",
        "PhiConfig",
        _gpt2_end,
        {**_TEXT, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1},
    ),
    Family(
        "phi3",
        "Phi3Config",
        lambda: byte_fallback(end="<|end|>", pad="<|endoftext|>"),
        {**_GROUPED, "resid_pdrop": 0.1, "sliding_window": WINDOW},
    ),
    Family("gemma3", "Gemma3TextConfig", _gemma, _GEMMA, tied=True),
    MultimodalGemma("gemma3_multimodal", "Gemma3Config", _gemma, _GEMMA, tied=True),
    Family(
        "mamba",
        "MambaConfig",
        lambda: byte_level(end="<|endoftext|>", pad="<|padding|>"),
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4, "time_step_rank": 2},
        tied=True,
    ),
)
