"""How large a model is, and what a training or a generation with it takes of a card's memory.

Everything follows from the model's config. Weights, adapter, gradients, optimiser states and
key-value cache are counted exactly. Activations are an estimate: what PyTorch keeps for the
backward pass of a Llama layer, from above. `docs/gpu.md` has formulas and worked examples.

Sizes are bytes. In the formulas `d` is the width of the device's dtype, `T` the tokens of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from refine_dagster import progress
from refine_dagster.models import architecture
from refine_dagster.models.batches import MemoryFullError, batch_ladder
from refine_dagster.models.device import Device, free_memory
from refine_dagster.models.language_model import ModelRef, load_config, reading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GIB = 2**30
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# NormalFloat of four bits with double quantization (arXiv 2305.14314, section 3): a block of 64
# weights has a scale of 8 bits, and 256 such scales share one of 32 bits.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Tiles in which TRL's fused head makes logits (tokens, entries of the vocabulary).
HEAD_TILE = (4096, 32768)
# A budget above this share of the free memory is tight: the allocator loses some to gaps.
TIGHT = 0.9
# Share of the free memory that a batch size found from memory plans with.
PLANNED_SHARE = 0.8
# A batch found from memory has at most so many requests: each batch is committed as one.
MOST_REQUESTS = 512

# Names rollouts among the batch sizes of a session.
ROLLOUTS = "rollouts"

Phase = Literal["held", "update", "rollouts"]
Trainer = Literal["trl", "own"]


@dataclass(frozen=True)
class ModelSize:
    """What a model's config says of its size; no weight is read or allocated.

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
        return 2 * self.layers * self.key_value * width

    def layer_activations(self, width: int, copied: int = 0) -> int:
        """Bytes that one decoder layer keeps of one token for the backward pass, `d` being `width`.

        Of the residual stream: both norms' inputs in float32 and their results before and after
        weighing, 4 d + 8. Of the queries: themselves and the attention's output, 2 d. Keys and
        values, d each. Of the feed-forward layer: gate, its activation, up, and their product, 4 d.
        Each linear layer's adapter keeps its own copy of the input in `copied` bytes; 0 where it
        shares the model's dtype.
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
    """The size of a model, from its config alone."""
    config = load_config(ref)
    with reading(ref, "config", "check that it is of a causal language model"):
        return config_size(config)


def config_size(config: PreTrainedConfig) -> ModelSize:
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


@dataclass(frozen=True)
class BudgetLine:
    """One line: `held` all the time, or only during an `update` or while `rollouts` are written."""

    what: str
    bytes: int
    how: str
    phase: Phase = "held"


@dataclass(frozen=True)
class MemoryBudget:
    title: str
    lines: tuple[BudgetLine, ...]

    def of(self, phase: Phase) -> int:
        return sum(line.bytes for line in self.lines if line.phase == phase)

    @property
    def total(self) -> int:
        """Most bytes at one time: updates and rollouts take turns."""
        return self.of("held") + max(self.of("update"), self.of("rollouts"))

    def markdown(self) -> str:
        how = "what is held, and the larger of update and rollouts"
        total = BudgetLine("total", self.total, how if self.of("rollouts") else "sum")
        lines = [*self.lines, total]
        rows = [f"| {line.what} | {_gib(line.bytes)} | {line.how} |" for line in lines]
        return "\n".join(["| what | GiB | from |", "|---|---:|---|", *rows])

    def line(self) -> str:
        parts = ", ".join(f"{line.what} {_gib(line.bytes)}" for line in self.lines if line.bytes)
        return f"memory budget of {self.title}: {_gib(self.total)} GiB ({parts})"


@dataclass(frozen=True)
class TrainingPlan:
    """What a training does, as far as memory goes.

    Attributes:
        batch: sequences in one forward and backward pass.
        length, answer: tokens of the longest sequence, and those that have logits.
        trainer: TRL's makes logits in tiles and holds a QLoRA adapter in bfloat16; PPO's own makes
            them whole and holds what is not packed in float32.
        rollouts: sequences written at once between updates.
        reference: whether a frozen copy of the weights is held.
        engine: bytes of a vLLM engine on the same card.
    """

    title: str
    batch: int
    length: int
    answer: int
    trained: Literal["lora", "full"] = "lora"
    lora_rank: int = 16
    trainer: Trainer = "trl"
    rollouts: int = 0
    reference: bool = False
    value_head: bool = False
    engine: int = 0


def training_budget(size: ModelSize, plan: TrainingPlan, device: Device) -> MemoryBudget:
    """The budget of a training, from above: a batch that is too large for it may still fit."""
    width, tokens = WIDTHS[device.dtype], plan.batch * plan.length
    packed = device.quantization != "none"
    trained, trained_width = size.parameters, width
    copied = 0
    lines = [_weights(size, device, 4 if packed and plan.trainer == "own" else width)]
    if plan.trained == "lora":
        trained = plan.lora_rank * size.lora_width
        # PEFT holds adapters in float32, TRL those of packed weights in bfloat16.
        trained_width = 2 if packed and plan.trainer == "trl" else 4
        if trained_width != width:
            # Such an adapter keeps its input in its own dtype, under autocast in the device's.
            copied = trained_width if plan.trainer == "own" else width
        how = f"rank {plan.lora_rank} x {size.lora_width:,} x {trained_width} B"
        lines.append(BudgetLine("adapter", trained * trained_width, how))
    each = f"{trained:,} trained x {trained_width} B"
    lines += [
        BudgetLine("gradients", trained * trained_width, each),
        BudgetLine("optimiser", 2 * trained * trained_width, f"AdamW: 2 x {each}"),
    ]
    if plan.reference:
        how = f"frozen copy, {size.parameters:,} x {width} B"
        lines.append(BudgetLine("reference policy", size.parameters * width, how))
    if plan.value_head:
        # Weight, gradient and two states, all float32.
        how = f"({size.hidden:,} + 1) x 16 B"
        lines.append(BudgetLine("value head", (size.hidden + 1) * 16, how))
    if plan.engine:
        lines.append(BudgetLine("vLLM engine", plan.engine, "reinforcement.vllm_memory_share"))
    shape = f"{plan.batch} x {plan.length} tokens"
    layer = size.layer_activations(width, copied)
    activations = tokens * (size.layers * layer + size.hidden * (2 * width + 8))
    how = f"{shape} x {size.layers} layers x {layer:,} B"
    if device.name != "cpu":
        # Checkpointing keeps the residual stream of each layer, and one layer whole.
        kept = size.hidden * width
        activations = tokens * (size.layers * kept + layer + size.hidden * (2 * width + 8))
        how = f"{shape} x ({size.layers} layers x {kept:,} B + one layer's {layer:,} B)"
    mask = plan.batch * plan.length**2 * (1 + width)
    lines += [
        BudgetLine("activations", activations, how, "update"),
        BudgetLine("attention mask", mask, f"{plan.batch} x {plan.length}^2", "update"),
        _logits(size, plan, width),
    ]
    if plan.rollouts and not plan.engine:
        cache = plan.rollouts * plan.length * size.cache_bytes(width)
        how = f"{plan.rollouts} x {plan.length} tokens x {size.cache_bytes(width):,} B"
        steps = plan.rollouts * size.vocab * (width + 4)
        lines += [
            BudgetLine("rollouts' key-value cache", cache, how, "rollouts"),
            BudgetLine("rollouts' logits", steps, f"{plan.rollouts} x {size.vocab:,}", "rollouts"),
        ]
    return MemoryBudget(plan.title, tuple(lines))


def generation_budget(
    size: ModelSize, device: Device, batch: int, prompt: int, new: int, title: str
) -> MemoryBudget:
    width = WIDTHS[device.dtype]
    each = size.cache_bytes(width)
    work = request_bytes(size, device, prompt, new) - (prompt + new) * each
    cache, how = batch * (prompt + new) * each, f"{batch} x {prompt + new} tokens x {each:,} B"
    lines = (
        _weights(size, device, width),
        BudgetLine("key-value cache", cache, how),
        BudgetLine("prompts and logits", batch * work, f"{batch} x {work:,} B"),
    )
    return MemoryBudget(title, lines)


def request_bytes(size: ModelSize, device: Device, prompt: int, new: int) -> int:
    """What one request takes while it is decoded, besides the weights.

    Its key-value cache, a step's logits, and what one layer makes of its prompt: the prompts of a
    batch are read at once.
    """
    width = WIDTHS[device.dtype]
    reading = prompt * (size.hidden * (2 * width + 8) + 3 * size.feed_forward * width)
    mask = prompt**2 * (1 + width)
    return (prompt + new) * size.cache_bytes(width) + reading + mask + size.vocab * (width + 4)


def requests_that_fit(size: ModelSize, device: Device, prompt: int, new: int) -> int:
    """How many requests of that length fit beside what is on the device now; 1 at least."""
    room = int(free_memory(device) * PLANNED_SHARE)
    return max(1, min(room // request_bytes(size, device, prompt, new), MOST_REQUESTS))


def budgeted_batch(base: ModelRef, plan: TrainingPlan, device: Device, fix: str) -> int:
    """Announce a training's budget; how many of a step's sequences to begin with in a pass.

    `fix` says what to lower where no batch fits, which raises `MemoryFullError`.
    """
    size = model_size(base)
    if plan.rollouts and not plan.engine and device.name != "cpu":
        fitting = rollouts_that_fit(size, plan, device)
        if fitting < plan.rollouts:
            device.use.batch_sizes[ROLLOUTS] = fitting
            progress.note(f"{plan.title}: {plan.rollouts} rollouts a step, {fitting} at once")
            plan = replace(plan, rollouts=fitting)
    batch = first_batch(size, plan, device)
    announce(training_budget(size, replace(plan, batch=batch), device), device, fix)
    if batch < plan.batch:
        progress.note(f"{plan.title}: {plan.batch} sequences a step, {batch} in a pass by budget")
    return batch


def rollouts_that_fit(size: ModelSize, plan: TrainingPlan, device: Device) -> int:
    """How many of a plan's rollouts can be written at once beside what is held; 1 at least."""
    budget = training_budget(size, plan, device)
    room = int(free_memory(device) * TIGHT) - budget.of("held")
    return max(1, min(plan.rollouts, room * plan.rollouts // budget.of("rollouts")))


def first_batch(size: ModelSize, plan: TrainingPlan, device: Device) -> int:
    """The largest even part of `plan.batch` whose budget fits a card; all of it on a CPU."""
    if device.name == "cpu":
        return plan.batch
    room = free_memory(device) * TIGHT
    for batch in batch_ladder(plan.batch):
        if training_budget(size, replace(plan, batch=batch), device).total <= room:
            return batch
    return 1


def announce(budget: MemoryBudget, device: Device, fix: str, free: int | None = None) -> None:
    """Show a budget before its work begins and compare it with the free memory in bytes.

    `free` None asks the device, and compares nothing on a CPU.

    Raises:
        MemoryFullError: what is held all the time is more than that.
    """
    device.use.budgets[budget.title] = budget.markdown()
    table = f"memory budget of {budget.title}:\n{budget.markdown()}"
    progress.note(budget.line() if device.name == "cpu" else table)
    if free is None:
        if device.name == "cpu":
            return
        free = free_memory(device)
    if (held := budget.of("held")) > free:
        what = f"it needs {_gib(held)} GiB whatever the batch, and {_gib(free)} GiB are free"
        raise MemoryFullError(what, where=budget.title, fix=fix)
    if budget.total > TIGHT * free:
        progress.note(
            f"{budget.title}: memory is tight, {_gib(budget.total)} GiB of {_gib(free)} GiB; "
            f"if it runs out the batch is halved. To make room: {fix}"
        )


def _weights(size: ModelSize, device: Device, width: int) -> BudgetLine:
    """The weights, packed where the device says so; `width` is that of the rest."""
    if device.quantization == "none":
        how = f"{size.parameters:,} x {width} B"
        return BudgetLine("weights", size.parameters * width, how)
    rest = size.parameters - size.linear
    how = f"{size.linear:,} x {NF4_BYTES:.4f} B + {rest:,} x {width} B"
    return BudgetLine("weights", round(size.linear * NF4_BYTES) + rest * width, how)


def _logits(size: ModelSize, plan: TrainingPlan, width: int) -> BudgetLine:
    tokens = plan.batch * plan.answer
    if plan.trainer == "own":
        # In the dtype; then float32 divided by the temperature, its log-softmax, their product.
        each = width + 4 * 4
        how = f"{plan.batch} x {plan.answer} tokens x {size.vocab:,} x {each} B"
        return BudgetLine("logits", tokens * size.vocab * each, how, "update")
    rows, columns = min(tokens, HEAD_TILE[0]), min(size.vocab, HEAD_TILE[1])
    tiles = rows * columns * (width + 8) + tokens * size.hidden * 4
    how = f"tile of {rows:,} x {columns:,}, gradient of {tokens:,} x {size.hidden:,}"
    if plan.trained == "full":
        tiles += size.vocab * size.hidden * 4
    return BudgetLine("logits", tiles, how, "update")


def _gib(amount: int) -> str:
    value = amount / GIB
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
