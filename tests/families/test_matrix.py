"""Every family of models through every part of the pipeline that runs a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from refine_dagster.config.learning import ReinforcementConfig, SupervisedConfig
from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.decoding import Sequences, Writing, shared_start, write
from refine_dagster.generation.model_text import ModelText
from refine_dagster.generation.request import Completion, Request, Sampling, Scoring
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.judge.judge import TrainedJudge
from refine_dagster.judge.network import Network, new_heads, read_network, write_network
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.language_model import (
    LoadedModel,
    ModelRef,
    loaded_model,
    resolve_model,
    with_adapter,
)
from refine_dagster.models.memory import model_size
from refine_dagster.models.padding import pad_left
from refine_dagster.prompts.example import Example
from refine_dagster.training.reinforcement import PolicyTraining, train_policy
from refine_dagster.training.sft import fine_tune
from tests.families.families import CONTEXT, FAMILIES, LAYERS, SPARE, WIDTH, WINDOW, Family

NEW_TOKENS = 12
POLICY_TOKENS = 8
# Longer than the families' windows, of different lengths, behind a start that they share.
START = "Come up with an answer.\n\nInstruction: Write"
PROMPTS = [
    f"{START} about the ship.\nInput:",
    f"{START} about the ship and the bread.\nInput: the rain\nOutput:",
    f"{START} about the cat, the dog and the sun é.\nInput: <noinput>\nOutput: the",
    f"{START}.\nOutput:",
]
LABELS = (" Yes", " No, the cat")
EXAMPLES = [
    Example("Name it.", "the cat", "the dog"),
    Example("Write about the rain and the ship.", "", "The ship is in the rain."),
    Example("Count the words.", "bread drum rose ball lamp bread drum rose", "8"),
]
GREEDY = Sampling(NEW_TOKENS, temperature=0.0)
POLICY = ReinforcementConfig(
    prompts_per_step=4, group_size=2, temperature=0.3, learning_rate=1e-2, lora_rank=2, lora_alpha=4
)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(scope="module")
def base(family: Family, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return resolve_model(str(family.write(tmp_path_factory.mktemp(family.name))))


@pytest.fixture(scope="module")
def loaded(base: ModelRef, device: Device) -> Iterator[LoadedModel]:
    with loaded_model(base, device) as model:
        yield model


@pytest.fixture(scope="module")
def likeliest(loaded: LoadedModel) -> list[list[int]]:
    """Greedy completions of the prompts, each token from a pass over all tokens before it."""
    import torch

    text = ModelText.of(loaded.model, loaded.tokenizer)
    completions = []
    with torch.inference_mode():
        for prompt in PROMPTS:
            ids = text.prompt(prompt)
            start = len(ids)
            while len(ids) < start + NEW_TOKENS and (len(ids) == start or ids[-1] not in text.eos):
                logits = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids = [*ids, int(logits[0, -1].argmax())]
            completions.append(ids[start:])
    return completions


def _logits(loaded: LoadedModel) -> list[float]:
    import torch

    ids = torch.tensor([ModelText.of(loaded.model, loaded.tokenizer).prompt(PROMPTS[1])])
    with torch.inference_mode():
        logits: list[float] = loaded.model(input_ids=ids).logits.flatten().tolist()
    return logits


def _moved(ref: ModelRef, base: LoadedModel, device: Device) -> bool:
    """Whether another model says something else."""
    with loaded_model(ref, device) as model:
        return _logits(model) != _logits(base)


def test_its_size_is_known(base: ModelRef, loaded: LoadedModel) -> None:
    size = model_size(base)
    assert (size.layers, size.hidden) == (LAYERS, WIDTH)
    assert size.vocab == len(loaded.tokenizer) + SPARE
    assert CONTEXT <= size.context <= 4 * CONTEXT
    assert ModelText.of(loaded.model, loaded.tokenizer).context_length == size.context


def test_a_padded_batch_writes_what_each_prompt_writes(
    loaded: LoadedModel, likeliest: list[list[int]]
) -> None:
    import torch

    text = ModelText.of(loaded.model, loaded.tokenizer)
    rows = [Writing(text.prompt(prompt), GREEDY, iter(())) for prompt in PROMPTS]
    padded = pad_left([row.prompt for row in rows], loaded.tokenizer.pad_token_id)
    with torch.inference_mode():
        write(rows, Sequences(loaded.model, padded, NEW_TOKENS), text, drop_ended=True)
    assert [row.written for row in rows] == likeliest


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_backend_writes_what_each_prompt_writes(
    base: ModelRef, loaded: LoadedModel, likeliest: list[list[int]], deterministic: bool
) -> None:
    config = DeviceConfig(device="cpu", threads=1, deterministic=deterministic)
    with device_session(config) as device:
        other = LoadedModel(loaded.model, loaded.tokenizer, base, device)
        backend = TransformersBackend(other, 8)
        requests = [Request("propose", prompt, GREEDY, 1) for prompt in PROMPTS]
        answers = dict(answer for batch in backend.generate(requests) for answer in batch)
    text = ModelText.of(loaded.model, loaded.tokenizer)
    assert shared_start([text.prompt(prompt) for prompt in PROMPTS]) > WINDOW
    assert [answers[place] for place in range(len(PROMPTS))] == [
        _completion(text, prompt, written)
        for prompt, written in zip(PROMPTS, likeliest, strict=True)
    ]


def _completion(text: ModelText, prompt: str, written: Sequence[int]) -> Completion:
    finish = "eos" if written[-1] in text.eos else "length"
    return text.completion(text.prompt(prompt), written, GREEDY, finish)  # type: ignore[arg-type]


def test_labels_are_scored_as_each_alone(base: ModelRef, loaded: LoadedModel) -> None:
    import torch

    backend = TransformersBackend(loaded, 8)
    requests = [Request("review", prompt, Scoring(LABELS), 1) for prompt in PROMPTS]
    answers = dict(answer for batch in backend.generate(requests) for answer in batch)
    text = ModelText.of(loaded.model, loaded.tokenizer)
    for place, prompt in enumerate(PROMPTS):
        for label, score in zip(LABELS, json.loads(answers[place].text), strict=True):
            before, ids = text.prompt(prompt), text.label(label)
            with torch.inference_mode():
                logits = loaded.model(input_ids=torch.tensor([before + ids])).logits[0]
            logs = logits.log_softmax(-1)[len(before) - 1 : -1]
            alone = logs.gather(1, torch.tensor(ids)[:, None]).sum()
            assert score == pytest.approx(float(alone), abs=1e-4)


def test_the_judge_scores_each_example_alone_and_is_read_back(
    base: ModelRef, device: Device, tmp_path: Path
) -> None:
    import torch

    with loaded_model(base, device) as loaded:
        heads = new_heads(loaded.model)
        torch.nn.init.normal_(heads["outputs"].weight, std=0.1)
        network = Network(loaded.model, heads, loaded.tokenizer, device)
        judge = TrainedJudge(network, "random")
        together = judge.score(EXAMPLES)
        assert together == [judge.score([example])[0] for example in EXAMPLES]
        assert len({tuple(scores.values()) for scores in together}) == len(EXAMPLES)
        write_network(network, tmp_path, {})
    again = TrainedJudge(read_network(tmp_path, device), "random")
    assert again.score(EXAMPLES) == together


def _policy(
    base: ModelRef, device: Device, out: Path, algorithm: str, weights: str, steps: int
) -> PolicyTraining:
    config = POLICY.changed(
        "reinforcement", {"algorithm": algorithm, "weights": weights, "steps": steps}, "test"
    )

    def length(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [float(len(completion)) for completion in completions]

    return train_policy(
        base,
        PROMPTS,
        length,
        config,
        out,
        max_new_tokens=POLICY_TOKENS,
        device=device,
        stop=("\n\n",),
    )


@pytest.mark.slow
def test_a_policy_begins_at_its_base_and_all_algorithms_read_it_alike(
    base: ModelRef, loaded: LoadedModel, device: Device, tmp_path: Path
) -> None:
    entropies = []
    for algorithm in ("grpo", "ppo"):
        out = tmp_path / algorithm
        training = _policy(base, device, out, algorithm, "lora", steps=3)
        assert training.steps[0].kl == pytest.approx(0.0, abs=1e-6)
        assert training.steps[-1].kl != 0.0
        assert _moved(with_adapter(base, out), loaded, device)
        entropies.append(training.steps[0].entropy)
    # TRL's figure is a mean over prompts of means over tokens: the same where all are as long.
    alike = 1e-5 if training.steps[0].length == POLICY_TOKENS else 1e-2
    assert entropies[0] == pytest.approx(entropies[1], rel=alike)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_all_weights_can_be_trained(
    family: Family,
    base: ModelRef,
    loaded: LoadedModel,
    device: Device,
    tmp_path: Path,
    algorithm: str,
) -> None:
    training = _policy(base, device, tmp_path, algorithm, "full", steps=2)
    assert training.steps[0].kl == pytest.approx(0.0, abs=1e-6)
    with loaded_model(resolve_model(str(tmp_path)), device) as trained:
        assert _logits(trained) != _logits(loaded)
        embedding = trained.model.get_input_embeddings().weight
        head = trained.model.get_output_embeddings().weight
        assert (embedding is head) == family.tied


@pytest.mark.slow
def test_it_is_fine_tuned_on_every_linear_layer(
    family: Family, base: ModelRef, loaded: LoadedModel, device: Device, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers.pytorch_utils import Conv1D

    config = SupervisedConfig(batch_size=3, max_tokens=128, learning_rate=1e-2, lora_rank=2)
    training = fine_tune(base, EXAMPLES, config, tmp_path, steps=4, device=device)
    assert training.steps[-1].loss < training.steps[0].loss
    assert _moved(with_adapter(base, tmp_path), loaded, device)
    names = load_file(tmp_path / "adapter_model.safetensors")
    adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in names}
    assert adapted == {
        name.rpartition(".")[2]
        for name, module in loaded.model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
        and module is not loaded.model.get_output_embeddings()
        and (family.config != "MambaConfig" or name.endswith("in_proj"))
    }
