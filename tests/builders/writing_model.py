"""A tiny model that writes well-formed instances, for tests of what training makes of it."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.offline.base_model import train_tokenizer
from refine_dagster.prompts.example import Example, instance_prompt

WORDS = ("moon", "pool", "food", "cat", "rain", "desk", "ship", "milk", "lamp", "tree", "boot")


def prompt_of(number: int) -> tuple[str, str]:
    """An instruction and the prompt for its instance, with one demonstration."""
    word = WORDS[number % len(WORDS)]
    instruction = f"Write {number % 7} words about {word}."
    shown = Example(f"Write about {WORDS[(number * 5 + 2) % 11]}.", "", _words(number * 3 + 1))
    return instruction, instance_prompt(instruction, [shown])


def _words(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 11] for step in (1, 3, 4))


def write_writing_model(folder: Path) -> Path:
    """Train a Llama of 0.1 M parameters for some seconds; it mostly keeps the format."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = [
        f"{prompt_of(n)[1]} <noinput>\nOutput: {_words(n)}\n\nInstruction: Write"
        for n in range(154)
    ]
    tokenizer = train_tokenizer(texts, vocab_size=400, context_length=256)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    tokenizer.padding_side = "right"
    for step in range(60):
        rows = [texts[(step * 8 + row) * 31 % len(texts)] for row in range(8)]
        batch = tokenizer(rows, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tokenizer.padding_side = "left"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
