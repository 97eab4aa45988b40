"""A memory budget: what a training or a generation will take of a card, before it begins.

Everything follows from the model's config. Weights, adapter, gradients, optimiser states and
key-value cache are counted exactly. Activations are an estimate: what PyTorch keeps for the
backward pass of a Llama layer, from above. `docs/gpu.md` has formulas and worked examples.

Sizes are bytes. In the formulas `d` is the width of the device's dtype, `T` the tokens of a batch.

Out of memory: the batch is halved, the run says so, and the size that fits is kept.

Only PyTorch's own out-of-memory error is met, which cards raise. A retry starts after the failed
attempt's frames are gone, since a traceback would hold the very tensors that took the room.

How large a model is, by its config alone: no weight is read, and none is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

from refine_dagster import progress
from refine_dagster.errors import RefineError, first_line
from refine_dagster.models.device import Device, free_memory, give_back_memory
from refine_dagster.models.language_model import ModelError, ModelRef

T = TypeVar("T")
R = TypeVar("R")


class MemoryFullError(RefineError):
    """Even the smallest batch takes more memory than there is."""


def batch_ladder(batch: int) -> list[int]:
    """Sizes into which `batch` examples can be parted evenly, each at most half of the one before.

    The largest is `batch` itself, the last is 1, so a step over all parts sees the same examples.

    >>> batch_ladder(24), batch_ladder(5)
    ([24, 12, 6, 3, 1], [5, 1])
    """
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(next(size for size in range(sizes[-1] // 2, 0, -1) if batch % size == 0))
    return sizes


def with_smaller_batches(
    device: Device,
    work: str,
    batch: int,
    start: int,
    attempt: Callable[[int], T],
    fix: str,
    repeats: int = 1,
) -> T:
    """Try a training with fewer and fewer examples in a pass, as many in a step.

    Args:
        work: names it in what is told and kept.
        batch: examples in a pass, all going well; every size tried divides it.
        start: the first size to try, one of `batch_ladder(batch)`; a smaller one that was found in
            this session is taken instead.
        attempt: trains from its beginning (or its last saved state) with so many in a pass.
        fix: what to lower where not even one fits.
        repeats: passes of `batch` examples in an optimiser step.

    Raises:
        MemoryFullError: memory runs out with a single example.
    """
    start = min(start, device.use.batch_sizes.get(work, start))
    sizes = [size for size in batch_ladder(batch) if size <= start]
    for size, smaller in zip(sizes, [*sizes[1:], None], strict=True):
        done, result = _attempt(lambda size=size: attempt(size))  # type: ignore[misc]
        if done:
            return result[0]
        give_back_memory(device)
        if smaller is None:
            break
        device.use.back_off(work, size, smaller, f" x {repeats * batch // smaller} accumulated")
    raise _full(work, 1, fix)


def in_batches_that_fit(
    device: Device,
    work: str,
    batch: Sequence[T],
    run: Callable[[Sequence[T]], R],
    fix: str,
    smallest: int = 1,
) -> Iterator[tuple[Sequence[T], R]]:
    """Run a batch, or its halves where memory runs out, or theirs; yield parts in order.

    Args:
        work: names it in what is told and kept.
        run: must not change the items, since a part may be run again.
        fix: what to lower where not even `smallest` items fit.
        smallest: items under which nothing is gained by a smaller batch.

    Raises:
        MemoryFullError: memory runs out with `smallest` items or fewer.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop(0)
        most = device.use.batch_sizes.get(work, len(part))
        if len(part) > most:
            waiting[:0] = [part[place : place + most] for place in range(0, len(part), most)]
            continue
        done, result = _attempt(lambda part=part: run(part))  # type: ignore[misc]
        if done:
            yield part, result[0]
            continue
        give_back_memory(device)
        if len(part) <= smallest:
            raise _full(work, len(part), fix)
        device.use.back_off(work, len(part), max(len(part) // 2, smallest))
        waiting.insert(0, part)


def _attempt(run: Callable[[], R]) -> tuple[bool, list[R]]:
    """Whether memory was enough, and then the result; nothing of a failed attempt stays alive."""
    from torch import OutOfMemoryError

    try:
        return True, [run()]
    except OutOfMemoryError:
        return False, []


def _full(work: str, batch: int, fix: str) -> MemoryFullError:
    return MemoryFullError(
        f"memory runs out even with a batch of {batch}",
        where=work,
        fix=f"{fix}; or take a card with more memory, or a smaller model",
    )


@dataclass(frozen=True)
class ModelSize:
    """What a model's config says of its size.

    Attributes:
        parameters: all of them.
        linear: weights of the linear layers but the head: what nf4 packs and LoRA adapts.
        lora_width: inputs plus outputs of those layers, summed: LoRA parameters for each rank.
        linear_inputs: their inputs alone, summed.
        layers, hidden, vocab: decoder layers, residual stream, vocabulary.
        query, key_value: width of all query heads, and of all key heads.
        feed_forward: width of the feed-forward layer.
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
    from transformers import AutoConfig

    try:
        return config_size(AutoConfig.from_pretrained(ref.path, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the model's config cannot be read: {first_line(error)}",
            where=ref.path,
            fix="check that it is a causal language model that this transformers version knows",
        ) from error


def config_size(config: Any) -> ModelSize:
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
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        linear=sum(weight.numel() for weight in linear),
        lora_width=sum(sum(weight.shape) for weight in linear),
        linear_inputs=sum(weight.shape[1] for weight in linear),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query=heads * head_width,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocab=text.vocab_size,
    )


GIB = 2**30
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# NormalFloat of four bits with double quantization (arXiv 2305.14314, section 3): a block of 64
# weights has a scale of 8 bits, and 256 such scales share one of 32 bits.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Tiles in which TRL's fused head makes logits (tokens, entries of the vocabulary).
HEAD_TILE = (4096, 32768)
# A budget above this share of the memory at hand is tight: the allocator loses some to gaps.
TIGHT = 0.9
# Share of the memory at hand that a batch size found from memory plans with.
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
        """The lines as a Markdown table, for the UI."""
        told = [*self.lines, self._sum()]
        rows = [f"| {line.what} | {_gib(line.bytes)} | {line.how} |" for line in told]
        return "\n".join(["| what | GiB | from |", "|---|---:|---|", *rows])

    def text(self) -> str:
        """The lines as a table of plain text, for the log."""
        from rich.console import Console
        from rich.table import Table

        table = Table("what", "GiB", "from", title=f"Memory budget: {self.title}")
        table.columns[1].justify = "right"
        for line in (*self.lines, self._sum()):
            table.add_row(line.what, _gib(line.bytes), line.how)
        console = Console(width=120, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(table)
        return captured.get().rstrip()

    def line(self) -> str:
        """The budget in one line."""
        parts = ", ".join(f"{line.what} {_gib(line.bytes)}" for line in self.lines if line.bytes)
        return f"memory budget of {self.title}: {_gib(self.total)} GiB ({parts})"

    def _sum(self) -> BudgetLine:
        how = "what is held, and the larger of update and rollouts"
        return BudgetLine("total", self.total, how if self.of("rollouts") else "sum")


@dataclass(frozen=True)
class TrainingPlan:
    """What a training does, as far as memory goes.

    Attributes:
        title: names it.
        batch: sequences in one forward and backward pass.
        length: tokens of the longest sequence.
        answer: tokens of it that have logits.
        trained: a LoRA update or every weight.
        lora_rank: of that update.
        trainer: TRL's, which makes logits in tiles and holds a QLoRA adapter in bfloat16; or the
            PPO of this project, which makes them whole and holds what is not packed in float32.
        rollouts: sequences written at once between updates; 0 without.
        reference: whether a frozen copy of the weights is held (not with LoRA).
        value_head: whether a value head is trained.
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
        base: the model to train.
        plan: with the whole step's sequences as its batch.
        fix: what to lower.

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
    ladder = batch_ladder(plan.batch)
    budgets = {one: training_budget(size, replace(plan, batch=one), device) for one in ladder}
    return next((one for one in ladder if budgets[one].total <= room), ladder[-1])


def announce(budget: MemoryBudget, device: Device, fix: str, at_hand: int | None = None) -> None:
    """Show a budget before its work begins and compare it with what the card has.

    Args:
        fix: what to lower.
        at_hand: bytes there are; None asks the device, and compares nothing on a CPU.

    Raises:
        MemoryFullError: what is held all the time is more than there is, so that no batch fits.
    """
    device.use.budgets[budget.title] = budget.markdown()
    progress.note(budget.line() if device.name == "cpu" else budget.text())
    if at_hand is None:
        if device.name == "cpu":
            return
        at_hand = free_memory(device)
    if budget.of("held") > at_hand:
        raise MemoryFullError(
            f"it needs {_gib(budget.of('held'))} GiB whatever the batch, "
            f"and {_gib(at_hand)} GiB are at hand",
            where=budget.title,
            fix=fix,
        )
    if budget.total > TIGHT * at_hand:
        progress.note(
            f"{budget.title}: memory is tight, {_gib(budget.total)} GiB of {_gib(at_hand)} GiB; "
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
