"""A memory budget: what a training or a generation will take of a card, before it begins.

Everything follows from the model's config. Weights, adapter, gradients, optimiser states and
key-value cache are counted exactly. Activations are an estimate: what PyTorch keeps for the
backward pass of a Llama layer, from above. `docs/gpu.md` has formulas and worked examples.

Sizes are bytes. In the formulas `d` is the width of the device's dtype, `T` the tokens of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from refine_dagster import progress
from refine_dagster.models.batches import MemoryFullError, batch_ladder
from refine_dagster.models.device import Device, free_memory
from refine_dagster.models.language_model import ModelRef
from refine_dagster.models.size import ModelSize, model_size

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
class BudgetLine:
    """One line: `held` all the time, or only during an `update` or while `rollouts` are written."""

    what: str
    bytes: int
    how: str
    phase: Phase = "held"


@dataclass(frozen=True)
class MemoryBudget:
    """The lines of one piece of work."""

    title: str
    lines: tuple[BudgetLine, ...]

    def of(self, phase: Phase) -> int:
        """Bytes of a phase."""
        return sum(line.bytes for line in self.lines if line.phase == phase)

    @property
    def total(self) -> int:
        """Most bytes at one time: updates and rollouts take turns."""
        return self.of("held") + max(self.of("update"), self.of("rollouts"))

    def markdown(self) -> str:
        """The lines as a Markdown table."""
        how = "what is held, and the larger of update and rollouts"
        total = BudgetLine("total", self.total, how if self.of("rollouts") else "sum")
        lines = [*self.lines, total]
        rows = [f"| {line.what} | {_gib(line.bytes)} | {line.how} |" for line in lines]
        return "\n".join(["| what | GiB | from |", "|---|---:|---|", *rows])

    def line(self) -> str:
        """The budget in one line."""
        parts = ", ".join(f"{line.what} {_gib(line.bytes)}" for line in self.lines if line.bytes)
        return f"memory budget of {self.title}: {_gib(self.total)} GiB ({parts})"


@dataclass(frozen=True)
class TrainingPlan:
    """What a training does, as far as memory goes.

    Attributes:
        batch: sequences in one forward and backward pass.
        length, answer: tokens of the longest sequence, and those that have logits.
        trainer: TRL's, which makes logits in tiles and holds a QLoRA adapter in bfloat16; or the
            PPO of this project, which makes them whole and holds what is not packed in float32.
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
    """The budget of a training.

    A batch that is too large for it may still fit: activations are counted from above.
    """
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
    checkpointing = device.name != "cpu"
    layer = size.layer_activations(width, copied)
    activations = tokens * (size.layers * layer + size.hidden * (2 * width + 8))
    how = f"{shape} x {size.layers} layers x {layer:,} B"
    if checkpointing:
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
    """The budget of decoding `batch` requests of `prompt` tokens that write `new` ones each."""
    width = WIDTHS[device.dtype]
    each = size.cache_bytes(width)
    work = request_bytes(size, device, prompt, new) - (prompt + new) * each
    return MemoryBudget(
        title,
        (
            _weights(size, device, width),
            BudgetLine(
                "key-value cache",
                batch * (prompt + new) * each,
                f"{batch} x {prompt + new} tokens x {each:,} B",
            ),
            BudgetLine("prompts and logits", batch * work, f"{batch} x {work:,} B"),
        ),
    )


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
    """Announce a training's budget and return how many sequences to begin with in a pass.

    Args:
        plan: its batch is all of a step's sequences.
        fix: what to lower if nothing fits.

    Raises:
        MemoryFullError: no batch fits.
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
    """Show a budget before its work begins and compare it with the free memory.

    Args:
        free: in bytes; None asks the device, and compares nothing on a CPU.

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
    if budget.of("held") > free:
        raise MemoryFullError(
            f"it needs {_gib(budget.of('held'))} GiB whatever the batch, "
            f"and {_gib(free)} GiB are free",
            where=budget.title,
            fix=fix,
        )
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
    """Bytes in GiB with as many digits as say something."""
    value = amount / GIB
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
