"""The base model: trained on the spot in the offline profile, found by id or path otherwise."""

from assets.declaration import pipeline_asset
from assets.step import Result, Step
from refine_dagster import stages
from refine_dagster.models.language_model import resolve_model

OFFLINE = "offline"


@pipeline_asset(group="model", kinds={"torch", "huggingface"}, owner="models", revision=2,
                config=("base_model", "device"), deps=["seed_tasks"])  # fmt: skip
def base_model(step: Step) -> Result:
    """The language model that proposes, answers, judges and is fine-tuned.

    With `base_model.id` = `offline`, a Llama of about a million parameters is trained here from the
    packaged primer and, unless `base_model.learn_seeds` is off, the seeds. Anything else is a
    Hugging Face id or a folder; its revision and the hash of its files are recorded, and a change
    of either is a new version.
    """
    config = step.profile.base_model
    if config.id != OFFLINE:
        ref = resolve_model(config.id, config.revision)
        same = step.unchanged(model=ref.fingerprint)
        return same or step.commit(stages.given_base(config.id, ref))
    if same := step.unchanged():
        return same
    with step.runtime() as runtime:
        made = stages.train_base(step.rows("seed_tasks"), config, runtime)
    return step.commit(made)
