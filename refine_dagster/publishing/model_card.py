"""The card of an exported model: what it is, how to use it, what it learnt, what was measured.

Every figure is read from the warehouse; where something was not measured or is not known, the card
says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.escapes import markdown_text
from refine_dagster.language import Language
from refine_dagster.models.known_models import KNOWN
from refine_dagster.publishing.home_models import (
    HomeModel,
    Measured,
    config_of,
    figures_of,
    home_models,
    language_of_model,
    training_chain,
)
from refine_dagster.publishing.markdown import code_block, table
from refine_dagster.seeds.readers import PACKAGED, read_seeds
from refine_dagster.warehouse.ledger import next_link
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.tables import slice_of
from refine_dagster.warehouse.warehouse import OUTSIDE, Warehouse

OFFLINE = "offline"
# What the rows that a training learnt from are.
SOURCES = {
    "seed_tasks": "seed tasks, written by people",
    "reward_scored_instructions": "instances by the policy before reinforcement learning",
    "base_scored_instructions": "instances by the base policy",
    "instruction_dataset": "rows of the instruction dataset, by the refined policy",
    "filtered_instructions": "accepted instructions, as prompts",
}
TITLES = {
    "base": "the base model that everything started from",
    "start": "the base model after a short fine-tuning on the seeds",
    "policy": "the policy that writes inputs and outputs for instructions, trained by "
    "reinforcement learning from automated feedback",
    "seeds_only": "the base model fine-tuned on the seed tasks alone",
    "self_instruct": "the base model fine-tuned on instances that it wrote itself",
    "refine_af": "the base model fine-tuned on the instruction dataset that a policy refined by "
    "reinforcement learning wrote",
}


@dataclass(frozen=True)
class CardFacts:
    """What a model's card is written from.

    Attributes:
        base: the row of the base model.
        trainings: the rows of the trainings on top of it, with their slices, in order.
        config: the config of the materialization that made it.
        funnel: (stage, outcome, rows).
        measured: model -> its figures, of every language model with figures of its own.
        comparisons: rows of `evaluation_comparisons`.
        attack: the strongest membership attack on the arm; None where none was tried.
        packaged_seeds: whether the seeds are the project's own.
        sequence, digest: the last line of the ledger.
    """

    model: HomeModel
    base: Row
    trainings: list[tuple[str, Row]]
    config: dict[str, Any]
    language: Language
    seeds: int
    packaged_seeds: bool
    funnel: list[tuple[str, str, int]]
    measured: dict[str, list[Measured]]
    comparisons: list[Row]
    attack: Row | None
    sequence: int
    digest: str


def read_facts(warehouse: Warehouse, model: HomeModel) -> CardFacts:
    """The facts about a language model of the home."""
    with warehouse.held():
        (_, base), *trainings = training_chain(warehouse, model)
        with warehouse.reading() as connection:
            following, digest = next_link(connection)
        config = config_of(warehouse, model)
        measured = {
            other.name: figures_of(warehouse, other)
            for other in home_models(warehouse)
            if other.kind != "instructor"
        }
        funnel = warehouse.query(
            "SELECT 'instructions', rule, count(*) AS rows FROM instruction_decisions GROUP BY ALL "
            "UNION ALL SELECT 'instances', rule, count(*) FROM instance_decisions GROUP BY ALL "
            "ORDER BY 1, rule <> 'kept', rows DESC, 2"
        ).rows()
        attacks = warehouse.query(
            "SELECT * FROM privacy_report WHERE arm = ? AND control = 'none' AND auc IS NOT NULL "
            "ORDER BY advantage DESC, attack LIMIT 1",
            [model.name],
        ).to_dicts()
        return CardFacts(
            model=model,
            base=base,
            trainings=trainings,
            config=config,
            language=language_of_model(warehouse, model),
            seeds=warehouse.read("seed_tasks").height,
            packaged_seeds=seeds_are_packaged(warehouse),
            funnel=funnel,
            measured={name: figures for name, figures in measured.items() if figures},
            comparisons=[] if not measured.get(model.name) else _comparisons(warehouse, model.name),
            attack=attacks[0] if attacks else None,
            sequence=following - 1,
            digest=digest,
        )


def model_card(
    facts: CardFacts, layout: str, template: str, exact: bool, licence: str | None
) -> str:
    """The card as Markdown with the metadata that the Hugging Face Hub reads."""
    model = facts.model
    sections = [
        _metadata(facts, layout, licence),
        f"# {model.name}\n\nThis model is {TITLES.get(model.name) or TITLES[model.kind]}. "
        "refine-dagster made it; the figures below are read from its warehouse.",
        _use(facts, layout, template, exact),
        _data(facts),
        _training(facts),
        _evaluation(facts),
        _limits(facts, exact),
        _licences(facts, licence),
    ]
    return "\n\n".join(sections) + "\n"


def base_name(base: Row) -> str:
    """What to call the base model: no path of this machine."""
    if base["model"] == OFFLINE or base["revision"] is not None or base["model"] in KNOWN:
        return str(base["model"])
    return str(base["model"]).rstrip("/").rsplit("/", 1)[-1]


def base_licence(base: Row) -> str:
    """A sentence on the terms of the base model."""
    name = markdown_text(base_name(base))
    if base["model"] == OFFLINE:
        return (
            "The base model was trained from nothing by refine-dagster (Apache-2.0), on tasks that "
            "its code generates and, with `base_model.learn_seeds`, on the seeds."
        )
    if base["model"] in KNOWN:
        return f"Base model {name}: {markdown_text(KNOWN[base['model']].terms)}."
    if base["revision"] is not None:
        return f"Base model {name}: see its page on the Hugging Face Hub."
    return f"Base model {name}: a local folder; its licence is not recorded."


def seeds_licence(packaged: bool) -> str:
    """A sentence on the terms of the seeds."""
    if packaged:
        return "The seed tasks are those of refine-dagster (Apache-2.0)."
    return "The seed tasks came from the user; their licence is not recorded."


def _metadata(facts: CardFacts, layout: str, licence: str | None) -> str:
    import yaml

    base = facts.base
    metadata: dict[str, Any] = {
        "library_name": "peft" if layout == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "language": [facts.language.code],
        "tags": ["refine-dagster", "synthetic", "instruction-tuning"],
    }
    if licence:
        metadata["license"] = licence
    if base["revision"] is not None:
        metadata["base_model"] = base["model"]
        if facts.trainings:
            metadata["base_model_relation"] = "adapter" if layout == "adapter" else "finetune"
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---"


def _use(facts: CardFacts, layout: str, template: str, exact: bool) -> str:
    loader, library = "AutoModelForCausalLM", "transformers"
    if layout == "adapter":
        loader, library = "AutoPeftModelForCausalLM", "peft"
    imports = [f"from {library} import {loader}", "from transformers import AutoTokenizer"]
    if layout == "merged":
        imports = [f"from transformers import {loader}, AutoTokenizer"]
    lines = [
        *imports,
        "",
        "folder = '.'  # this one",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {loader}.from_pretrained(folder)",
        "messages = [{'role': 'user', 'content': 'Count the words.\\n\\nred old boat'}]",
        "inputs = tokenizer.apply_chat_template(",
        "    messages, add_generation_prompt=True, return_tensors='pt', return_dict=True",
        ")",
        "written = model.generate(**inputs, max_new_tokens=64)",
        "print(tokenizer.decode(written[0, inputs['input_ids'].shape[1] :]))",
    ]
    if facts.model.kind in ("policy", "start"):
        form = (
            "A message is an instruction. The model answers with an input (`<noinput>` where none "
            "is needed), a line `Output:` and an output; stop at `Instruction:`."
        )
    else:
        form = (
            "A message is an instruction and, behind a blank line, its input. With a system "
            "message, that is the instruction and the user's message the input."
        )
    serve = (
        "vllm serve ."
        if layout == "merged"
        else (f"vllm serve base --enable-lora --lora-modules {facts.model.name}=.")
    )
    moved = (
        ""
        if layout == "merged" or facts.base["revision"] is not None
        else "\n\nThe base model lies in the folder `base`. PEFT finds it by the whole path in "
        "`adapter_config.json` (`base_model_name_or_path`): change that where the folder moves."
    )
    return "\n\n".join(
        [
            "## Use",
            code_block("\n".join(lines), "python"),
            f"Served: `{serve}`.",
            form + " The chat template renders the words of the training. Answers are best taken "
            "greedily, as in the evaluation." + moved,
        ]
    )


def _data(facts: CardFacts) -> str:
    lines = [
        (f"{name}: {SOURCES.get(slice_of(name).table.name, name)}", rows)
        for name, rows in sorted(facts.model.learnt_from.items())
    ]
    learnt = table(["learnt from", "rows"], lines) if lines else "Nothing was learnt here."
    text = (
        f"Everything started from {facts.seeds} seed tasks, written by people. Instructions were "
        "proposed by a language model and decided on one by one; a policy wrote their inputs and "
        "outputs, and rules and a judge decided on those. What became of the candidates:"
    )
    funnel = table(["stage", "outcome", "rows"], facts.funnel)
    where = (
        f"Each row names its parents. The ledger's last line is {facts.sequence}, digest "
        f"`{facts.digest}`; this model is `{facts.model.fingerprint}`."
    )
    return "\n\n".join(["## Data", learnt, text, funnel, where])


def _training(facts: CardFacts) -> str:
    base = facts.base
    lines: list[tuple[str, Any]] = [
        ("base model", base_name(base)),
        ("its commit", base["revision"]),
        ("its fingerprint", base["fingerprint"]),
        ("parameters", base["parameters"]),
        ("context, tokens", base["context_length"]),
    ]
    for name, row in facts.trainings:
        lines.append((f"{name}, checkpoint", row["checkpoint_hash"]))
        lines += [
            (f"{name}, {column.replace('_', ' ')}", row[column])
            for column in ("algorithm", "preset", "rows", "steps", "loss_first", "loss_last")
            if row.get(column) is not None
        ]
    config = {
        name: value
        for name, value in facts.config.items()
        if name in ("base_model", "supervised", "reinforcement", "instances", "reward", "device")
    }
    if "base_model" in config:
        config["base_model"] = {**config["base_model"], "id": base_name(base)}
    return "\n\n".join(
        [
            "## Training",
            table(["", ""], [line for line in lines if line[1] is not None]),
            "Config:",
            code_block(json.dumps(config, indent=2, ensure_ascii=False), "json"),
        ]
    )


def _evaluation(facts: CardFacts) -> str:
    own = facts.measured.get(facts.model.name)
    if not own:
        return "## Evaluation\n\nThis model has not been evaluated."
    if facts.model.kind in ("policy", "start"):
        figures = ", ".join(map(str, own))
        return (
            f"## Evaluation\n\n{figures}. The reward is the automated judge's, on instructions "
            "that were kept from training; brackets are 95 % intervals over those. It is not a "
            "measure of truth."
        )
    scores = table(
        ["model", "ROUGE-L", "95 % interval"],
        [
            (name, figure.value, f"{figure.low:.2f} to {figure.high:.2f}")
            for name, figures in facts.measured.items()
            for figure in figures
            if figure.what == "ROUGE-L" and figure.low is not None and figure.high is not None
        ],
    )
    parts = [
        "## Evaluation",
        "Greedy answers to held-out tasks by the protocol of SUPER-NI: mean ROUGE-L over tasks, "
        "points of 100. Intervals resample the tasks.",
        scores,
    ]
    if facts.comparisons:
        parts.append(
            table(
                ["against", "wins", "ties", "losses", "difference", "95 % interval"],
                [
                    (
                        row["against"], row["wins"], row["ties"], row["losses"], row["mean_delta"],
                        f"{row['delta_low']:+.2f} to {row['delta_high']:+.2f}",
                    )
                    for row in facts.comparisons
                ],
            )
        )  # fmt: skip
    if facts.attack:
        attack = facts.attack
        parts.append(
            f"The strongest of the membership attacks (`{attack['attack']}`) told rows that a "
            "model of this kind learnt from others with AUC "
            f"{attack['auc']:.3f} [{attack['auc_low']:.3f}, {attack['auc_high']:.3f}]; 0.5 is "
            "chance."
        )
    return "\n\n".join(parts)


def _limits(facts: CardFacts, exact: bool) -> str:
    limits = [
        "The data was written by a language model and selected by an automated judge. A high "
        "reward is not a proof of a right answer, and wrong answers are in the data.",
        "It learnt from single questions. In a conversation, earlier turns stand in front and are "
        "no part of what it learnt.",
        "It was not trained to refuse, and no test of safety or bias was made.",
    ]
    if facts.base["model"] == OFFLINE:
        limits.insert(
            0,
            f"The base model has {facts.base['parameters']:,} parameters and a small generated "
            "language. It shows the pipeline; its answers are mostly wrong.",
        )
    if facts.model.stale:
        limits.append("The home has changed since: something it was made from is no longer live.")
    if not exact:
        limits.append(
            "The tokenizer turns the chat template's text into other tokens than those of the "
            "training, at least for some texts."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _licences(facts: CardFacts, licence: str | None) -> str:
    own = (
        f"These weights: {markdown_text(licence)}."
        if licence
        else "No licence is stated for these weights."
    )
    lines = [own, base_licence(facts.base), seeds_licence(facts.packaged_seeds)]
    return "## Licences\n\n" + "\n".join(f"- {line}" for line in lines)


def _comparisons(warehouse: Warehouse, arm: str) -> list[Row]:
    return warehouse.query(
        "SELECT * FROM evaluation_comparisons WHERE arm = ? ORDER BY against", [arm]
    ).to_dicts()


def seeds_are_packaged(warehouse: Warehouse) -> bool:
    """Whether the seeds are those of the project, as far as the ledger says."""
    last = warehouse.last_record("seed_tasks")
    if last is None:
        return False
    try:
        return last.inputs.get(f"{OUTSIDE}seeds") == read_seeds(PACKAGED).content_hash
    except RefineError:
        return False
