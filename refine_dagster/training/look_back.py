"""How the offline base model's first layer is born: with heads that look at the words just before.

In-context learning, copying a word of the prompt above all, is the work of induction heads: they
look for an earlier place whose *preceding* token is the present one, and repeat what stood there.
They can only form on top of heads of an earlier layer that look back by one token, and both take
a sudden shape late in training (Olsson et al. 2022, "In-context Learning and Induction Heads",
arXiv 2209.11895). A model trained for a minute does not find even the first of them by itself. A
head that looks back by a fixed number of tokens, however, needs no learning: with rotary positions
it is two constant vectors. Starting from weights that already hold a useful structure is known as
mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828).

With every pair of a head's dimensions written as one complex number, rotary attention between a
query q and a key k that stands d tokens before it scores Re(sum of q * conj(k) * exp(i w d)) over
the pairs, w being a pair's frequency. A key that is always the constant a, and a query that is
always a * exp(-i w n), score a^2 cos(w (d - n)) a pair: most at d = n, whatever the tokens are.
These constants are the biases of the queries and keys; like all other weights they stay free to be
trained, and the model is an ordinary Llama with `attention_bias`.
"""

from __future__ import annotations

from typing import Any

# Length of the constant vectors in each pair of dimensions: the score at the wanted distance is the
# sum of its squares over the pairs, over the root of the head's width.
AMPLITUDE = 5.0
# Pairs used, from the quickest frequency on; slower ones hardly tell neighbours apart.
PAIRS = 8


def look_back(model: Any, heads: int) -> None:
    """Make the first `heads` heads of the first layer look back by 1, 2, ... tokens.

    Args:
        model: a freshly drawn `LlamaForCausalLM` with `attention_bias` and as many key heads as
            query heads.
        heads: how many, at most the model's heads; the others are left as they were drawn.
    """
    import torch

    width = model.config.hidden_size // model.config.num_attention_heads
    pairs = min(PAIRS, width // 2)
    frequencies = model.model.rotary_emb.inv_freq[:pairs]
    attention = model.model.layers[0].self_attn
    queries, keys = attention.q_proj.bias, attention.k_proj.bias
    with torch.no_grad():
        for head in range(heads):
            distance = head + 1
            # Hugging Face's Llama keeps the two parts of a pair half a head apart.
            real = slice(head * width, head * width + pairs)
            imaginary = slice(real.start + width // 2, real.stop + width // 2)
            keys[real] = AMPLITUDE
            queries[real] = AMPLITUDE * torch.cos(frequencies * distance)
            queries[imaginary] = -AMPLITUDE * torch.sin(frequencies * distance)
