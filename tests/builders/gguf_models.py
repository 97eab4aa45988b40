"""Small models written as .gguf files, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from refine_dagster.models.conversion import PARAGRAPH

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
TEXT = (PARAGRAPH + " ") * 3 + "The cat sat on the mat, and it didn't move 12 times. "


@dataclass(frozen=True)
class Source:
    """A .gguf file, and the model that it was written from.

    Attributes:
        tokens, scores: of the vocabulary; no scores where merges are listed.
        tokenizer: of `tokenizers`, where the vocabulary is byte-level.
    """

    path: Path
    model: Any
    tokens: list[str]
    scores: list[float]
    tokenizer: Any = None


def write_llama(
    folder: Path, byte_level: bool = False, metadata: Mapping[str, Any] | None = None
) -> Source:
    """Write `llama.gguf`: a Llama in float32, taught the paragraph of the conversion's check."""
    import numpy
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens, scores, types, merges, tokenizer = _byte_level() if byte_level else _spm([])
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    source = Source(folder / "llama.gguf", None, tokens, scores, tokenizer)
    ids = tokenizer.encode(PARAGRAPH).ids if byte_level else spm_ids(f" {PARAGRAPH}", source)
    model = _taught(LlamaForCausalLM, config, [1, *ids])

    def permuted(weight: Any, heads: int) -> Any:
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
        return halves.swapaxes(1, 2).reshape(weight.shape)

    def tensor(name: str, weight: Any) -> Any:
        if name.endswith("attn_q.weight"):
            return permuted(weight, 4)
        return permuted(weight, 2) if name.endswith("attn_k.weight") else weight

    writer = _writer(folder / "llama.gguf", "llama", config)
    writer.add_rope_dimension_count(8)
    _write_vocabulary(writer, "gpt2" if byte_level else "llama", tokens, scores, types, merges)
    for key, value in (metadata or {}).items():
        writer.add_key_value(key, value, _kind(value))
    for name, weight in _named(model, _LLAMA_NAMES).items():
        writer.add_tensor(name, numpy.ascontiguousarray(tensor(name, weight)))
    _close(writer)
    return replace(source, model=model)


def write_gemma(folder: Path) -> Source:
    """Write `gemma.gguf`: a Gemma 3 with matrices of eight bits and tokens of blanks."""
    import gguf
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokens, scores, types, _, _ = _spm(["  ", "\n\n", "<start_of_turn>"])
    config = Gemma3TextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=256,
        sliding_window=32,
        max_position_embeddings=256,
        rope_theta=1_000_000.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    source = Source(folder / "gemma.gguf", None, tokens, scores)
    model = _taught(Gemma3ForCausalLM, config, [1, *spm_ids(PARAGRAPH, source)])
    writer = _writer(folder / "gemma.gguf", "gemma3", config)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_sliding_window(32)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_pad_token_id(0)
    writer.add_add_space_prefix(False)
    writer.add_chat_template("{{ messages }}")
    _write_vocabulary(writer, "llama", tokens, scores, types, [])
    for name, weight in _named(model, _GEMMA_NAMES).items():
        if weight.ndim == 1:
            # Gemma's norms weigh by 1 + w, and the file holds the sum.
            writer.add_tensor(name, weight + 1)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
    _close(writer)
    return replace(source, model=model)


def spm_ids(text: str, source: Source) -> list[int]:
    """SentencePiece's BPE by its definition: merge the best pair until there is none."""
    scores = {
        token: score for token, score in zip(source.tokens, source.scores, strict=True) if score < 0
    }
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[left + right], at)
            for at, (left, right) in enumerate(pairwise(parts))
            if left + right in scores
        ]
        if not pairs:
            break
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    ids = {token: place for place, token in enumerate(source.tokens)}
    return [
        ids[piece]
        for part in parts
        for piece in ([part] if part in ids else [BYTES[byte] for byte in part.encode()])
    ]


def _taught(kind: Any, config: Any, ids: list[int]) -> Any:
    """A model that has read the check's paragraph often."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = kind(config)
    batch = torch.tensor([ids[: config.max_position_embeddings]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(40):
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def _spm(user_defined: list[str]) -> tuple[list[str], list[float], list[int], list[str], Any]:
    """Tokens, scores and types of a vocabulary as SentencePiece trains it."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator([TEXT], BpeTrainer(vocab_size=220, show_progress=False))
    learnt = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    singles = [token for token in learnt if len(token) == 1]
    merged = [token for token in learnt if len(token) > 1]
    # SentencePiece puts single characters last.
    normal = [*merged, *singles]
    tokens = ["<unk>", "<s>", "</s>", *user_defined, *BYTES, *normal]
    types = [
        UNKNOWN,
        CONTROL,
        CONTROL,
        *[USER_DEFINED] * len(user_defined),
        *[BYTE] * len(BYTES),
        *[NORMAL] * len(normal),
    ]
    before = len(tokens) - len(normal)
    scores = [0.0] * before + [-1.0 - place for place in range(len(normal))]
    return tokens, scores, types, [], None


def _byte_level() -> tuple[list[str], list[float], list[int], list[str], Any]:
    import json

    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        [TEXT],
        vocab_size=400,
        special_tokens=["<unk>", "<|start|>", "<|end|>"],
        show_progress=False,
    )
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    types = [CONTROL if token.startswith("<|") else NORMAL for token in tokens]
    merges = [" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return tokens, [], types, merges, tokenizer


def _writer(path: Path, architecture: str, config: Any) -> Any:
    from gguf import GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    return writer


def _write_vocabulary(
    writer: Any,
    kind: str,
    tokens: list[str],
    scores: list[float],
    types: list[int],
    merges: list[str],
) -> None:
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default" if kind == "llama" else "gpt-2")
    writer.add_token_list(tokens)
    if scores:
        writer.add_token_scores(scores)
        writer.add_add_bos_token(True)
    writer.add_token_types(types)
    if merges:
        writer.add_token_merges(merges)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(value: Any) -> Any:
    from gguf import GGUFValueType

    return GGUFValueType.get_type(value)


_LLAMA_NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_NAMES = _LLAMA_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def _named(model: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Weights in float32 by llama.cpp's names; a tied head is left out."""
    weights = {}
    for name, parameter in model.named_parameters():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[name] = parameter.detach().float().numpy()
    return weights
