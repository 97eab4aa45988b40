"""The base model: trained on the spot in the offline profile, found by id or path otherwise."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.sources import device_manifest, examples_of
from assets.step import materializing, parents
from refine_dagster.models.language_model import ModelRef, resolve_model
from refine_dagster.models.size import model_size
from refine_dagster.offline.base_model import train_base_model
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, make_row
from resources.checkpoints import CheckpointsResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

OFFLINE = "offline"


@dg.asset(group_name="model", kinds={"torch", "huggingface"}, owners=["team:models"],
          deps=["seed_tasks"])  # fmt: skip
def base_model(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """The language model that proposes, answers, judges and is fine-tuned.

    With `base_model.id` = `offline`, a Llama of about a million parameters is trained here from the
    packaged primer and, unless `base_model.learn_seeds` is off, the seeds. Anything else is a
    Hugging Face id or a folder; its revision and the hash of its files are recorded, and a change
    of either is a new version.
    """
    with materializing(context, profile, warehouse) as step:
        config = step.profile.base_model
        if config.id != OFFLINE:
            ref = resolve_model(config.id, config.revision)
            if same := step.unchanged(model=ref.fingerprint):
                return same
            rows = {"base_model": [_row(config.id, ref, None, [])], "base_model_steps": []}
            return step.commit(rows, figures={"parameters": model_size(ref).parameters})
        if same := step.unchanged(checkpoints):
            return same
        seeds = step.rows("seed_tasks") if config.learn_seeds else []
        examples = examples_of(seeds)
        with gpu.session(step.profile.device) as device:
            step.device = device
            run_seed = step.profile.run_seed

            def train(out: Path) -> dict[str, Any]:
                return asdict(train_base_model(examples, config, out, device, run_seed))

            manifest = {
                "knobs": config.model_dump(by_alias=True),
                "salt": run_seed,
                "device": device_manifest(device),
                "seeds": [example.render() for example in examples],
            }
            checkpoint = checkpoints.store().train_or_reuse("base_model", manifest, train)
        ref = resolve_model(str(checkpoint.path))
        row = _row(OFFLINE, ref, checkpoint, parents(seeds, "seed_tasks", "trained_on"))
        steps = [
            make_row("base_model_steps", one, [Parent("base_model", row["row_id"], "model")])
            for one in checkpoint.record["steps"]
        ]
        return step.commit(
            {"base_model": [row], "base_model_steps": steps},
            checkpoints=[checkpoint],
            figures={
                "parameters": row["parameters"],
                "loss": steps[-1]["loss"],
                "checkpoint_reused": checkpoint.reused,
            },
        )


def _row(model: str, ref: ModelRef, checkpoint: Checkpoint | None, trained_on: list[Parent]) -> Row:
    size = model_size(ref)
    return make_row(
        "base_model",
        {
            "model": model,
            "revision": ref.revision,
            "fingerprint": ref.fingerprint,
            "parameters": size.parameters,
            "vocab_size": size.vocab,
            "context_length": size.context,
            "checkpoint_hash": checkpoint.content_hash if checkpoint else None,
        },
        trained_on,
    )
