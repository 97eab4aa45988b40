"""`open_generator` with the backend `endpoint`: names of models, and labels scored here."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.generation.endpoint.backend import endpoint_fingerprint
from refine_dagster.generation.request import Request, Sampling, Scoring, label_scores
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import loaded_model, resolve_model
from tests.builders.endpoints import endpoint_config
from tests.builders.stub_server import StubServer, running

ASKED = [
    Request("propose", "Instruction: cat\nInput:", Sampling(8, temperature=0.7), 1),
    Request("review", "Is it?\nOutput:", Scoring((" yes", " no")), 0),
]


@pytest.mark.slow
def test_texts_come_from_servers_and_labels_from_here(
    tiny_model_folder: Path, tmp_path: Path, device: Device
) -> None:
    ref, stub = resolve_model(str(tiny_model_folder)), StubServer(scores=False)
    path = tmp_path / "completions.duckdb"
    with running(stub):
        config = endpoint_config(stub, endpoint_local=("labels",))
        with open_generator(ref, device, CompletionsStore(path), config) as session:
            written, scored = session.complete(ASKED)
            assert session.model == endpoint_fingerprint(ref, device, config)
            assert session.backend.count_tokens("cat dog") > 0
        # Nothing new: no server is needed, and no weights are read.
        stub.busy = True
        with open_generator(ref, device, CompletionsStore(path), config) as session:
            assert session.complete(ASKED) == [written, scored]
    assert len(stub.prompts()) == 1
    with loaded_model(ref, device) as loaded:
        [[(_, here)]] = TransformersBackend(loaded, 4).generate(ASKED[1:])
    assert label_scores(scored) == label_scores(here)
