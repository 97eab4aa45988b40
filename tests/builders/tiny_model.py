"""A tiny model in Hugging Face format, for tests of what runs models, whatever they say."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.offline.base_model import train_tokenizer
from refine_dagster.prompts.example import Example

_THINGS = ("cat", "dog", "sun", "rain", "ship", "bread", "drum", "rose", "ball", "lamp")
_PLACES = ("sea", "school", "garden", "kitchen", "street", "hill", "shop", "park")


def _examples() -> list[Example]:
    made = [
        Example(f"Name the place of a {thing}.", "", f"the {_PLACES[n % 8]}")
        for n, thing in enumerate(_THINGS)
    ]
    for n, thing in enumerate(_THINGS):
        for m, place in enumerate(_PLACES):
            words = f"{thing} {place} {_THINGS[(n + m) % 10]}"
            made += [
                Example("Reverse the order of the words.", words, " ".join(words.split()[::-1])),
                Example("Count the words.", words, "3"),
                Example(
                    f"Write a sentence about the {place}.", "", f"The {thing} is at the {place}."
                ),
            ]
    return made


def write_tiny_model(folder: Path) -> Path:
    """Write a Llama of about 0.1 M parameters, trained for a moment on examples.

    Context 512 tokens, vocabulary up to 512; it writes letters and line breaks, and hardly sense.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    text = "\n\n".join(example.render() for example in _examples())
    tokenizer = train_tokenizer([text], vocab_size=512, context_length=512)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    width = 64
    for step in range(80):
        starts = [(step * 8 + row) * 97 % (len(ids) - width) for row in range(8)]
        batch = torch.stack([ids[start : start + width] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
