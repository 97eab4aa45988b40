"""Tiny models in the format of the published judges, with tokenizers trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = (
    "question Is this a natural understandable coherent response in the dialogue given history "
    "Yes No Name fruit pear apple plum boat goes on sea and river Write about dog cat sun rain "
    "Reverse words Count them one two three four five please say what you think of it today"
)
CHAT_TOKENS = ("<|prompter|>", "<|assistant|>")


def write_unieval(
    folder: Path, seed: int = 3, *, untied: bool = False, answers: bool = True
) -> Path:
    """A T5 of two layers with a Unigram tokenizer, as `save_pretrained` lays them out.

    Args:
        untied: as T5 1.1, whose head has weights of its own and reads states unscaled.
        answers: whether the tokenizer has tokens for Yes and No.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = _unigram(WORDS if answers else WORDS.lower())
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu" if untied else "relu",
        tie_word_embeddings=not untied,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        if untied:
            head = torch.randn(config.vocab_size, config.d_model) * 0.2
            model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The published config speaks of tying in the words of its day.
    edit_json(folder / "config.json", tie_word_embeddings=not untied)
    return folder


def write_reward_model(
    folder: Path, seed: int = 3, *, chat_tokens: bool = True, head: bool = True
) -> Path:
    """A GPT-NeoX body of two layers and a linear output, with the published names of weights.

    The files are written by hand, old buffers and old config fields included, so that nothing of
    the code under test takes part in making them.
    """
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXModel

    tokenizer = _byte_level(WORDS, CHAT_TOKENS if chat_tokens else ())
    size, heads, context = 32, 2, 128
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": size,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "intermediate_size": 64,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = GPTNeoXModel(GPTNeoXConfig(**fields))
        weight, bias = torch.randn(1, size), torch.randn(1)
    state = {f"gpt_neox.{name}": value for name, value in body.state_dict().items()}
    for layer in range(2):
        place = f"gpt_neox.layers.{layer}.attention"
        state[f"{place}.bias"] = torch.ones(1, 1, context, context).tril().bool()
        state[f"{place}.masked_bias"] = torch.tensor(-1e9)
        state[f"{place}.rotary_emb.inv_freq"] = torch.ones(2)
    if head:
        state |= {"out_proj.weight": weight, "out_proj.bias": bias}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")
    published = {
        "architectures": ["GPTNeoXRewardModel"],
        "model_type": "gpt_neox_reward_model",
        "pooling": "last",
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps({**fields, **published}), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **fields}), encoding="utf-8")


def _unigram(text: str) -> Any:
    from transformers import T5Tokenizer

    letters = sorted(set(text + ":?.,/<>|") - {" "})
    candidates = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    candidates += [(f"▁{word}", -3.0) for word in dict.fromkeys(text.split()) if len(word) > 1]
    candidates += [(letter, -6.0) for letter in letters]
    return T5Tokenizer(vocab=candidates, extra_ids=0)


def _byte_level(text: str, chat_tokens: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|padding|>",
        additional_special_tokens=list(chat_tokens),
        clean_up_tokenization_spaces=False,
    )
