"""The backend `endpoint`: requests go to servers with OpenAI's interface.

The completions store is what makes a run repeat itself; servers need not. A completion's name has
the model's name on the servers, and neither their URLs nor their software: those are recorded
beside it (`store.answers`, `store.servers`). So servers may move, and a run that needs nothing new
asks none of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from refine_dagster import progress
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.endpoint.adapters import loaded_adapter
from refine_dagster.generation.endpoint.dispatch import Site
from refine_dagster.generation.endpoint.messages import (
    CHAT,
    COMPLETIONS,
    label_score,
    scoring_body,
    writing_body,
    written,
)
from refine_dagster.generation.endpoint.outcomes import EndpointError
from refine_dagster.generation.endpoint.session import EndpointSession
from refine_dagster.generation.model_text import ModelText, backend_fingerprint, model_text
from refine_dagster.generation.request import (
    Backend,
    Completion,
    Request,
    Scoring,
    scored_completion,
)
from refine_dagster.generation.transformers_backend import transformers_backend
from refine_dagster.generation.vllm_backend import as_one_adapter
from refine_dagster.hashing import file_hash, json_hash
from refine_dagster.models.device import Device
from refine_dagster.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from refine_dagster.models.language_model import ModelRef

BATCH = 32


class EndpointBackend:
    """Runs requests on servers (implements `request.Backend`).

    Servers are contacted when the first request is sent.

    Args:
        ref: the model with local weights: its tokenizer counts tokens, it scores labels where
            `endpoint_local` says so, and its adapters are loaded by the servers.
    """

    name = "endpoint"

    def __init__(
        self,
        ref: ModelRef,
        device: Device,
        config: GeneratorConfig,
        text: ModelText,
        resources: ExitStack,
    ) -> None:
        self.fingerprint = endpoint_fingerprint(ref, device, config)
        # Rows name a trained model as its checkpoint does.
        self.model = ref.fingerprint if ref.adapters else self.fingerprint
        self._ref, self._device, self._config = ref, device, config
        self._resources = resources
        self._served_name = config.endpoint_model or ""
        self.count_tokens, self.cut = text.count_tokens, text.cut

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batches of (position in `requests`, completion) in the order in which they end.

        Servers go on while the caller handles a batch.

        Raises:
            EndpointError: no server answers any more, or labels are to be scored and one of the
                servers gives no log-probabilities.
        """
        labels = [
            number
            for number, request in enumerate(requests)
            if isinstance(request.sampling, Scoring) and "labels" in self._config.endpoint_local
        ]
        if labels:
            for batch in self._local.generate([requests[number] for number in labels]):
                yield [(labels[place], completion) for place, completion in batch]
        asked = sorted(set(range(len(requests))) - set(labels))
        if asked:
            for batch in self._by_servers([requests[number] for number in asked]):
                yield [(asked[place], completion) for place, completion in batch]

    def _by_servers(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        session = self._session
        if any(isinstance(request.sampling, Scoring) for request in requests):
            _require_scores(session)
        batch = self._config.batch_size or BATCH
        sending = session.loop.run(session.dispatch(requests, self._answer, batch))
        try:
            while done := session.loop.run(sending.next_batch()):
                while sending.notes:
                    progress.note(sending.notes.pop(0))
                yield done
        finally:
            session.loop.run(sending.cancel())

    @cached_property
    def _session(self) -> EndpointSession:
        session = self._resources.enter_context(EndpointSession(self._config))
        if self._ref.adapters:
            scratch = Path(
                self._resources.enter_context(tempfile.TemporaryDirectory(prefix="refine_lora_"))
            )
            folder, _ = as_one_adapter(self._ref.adapters, scratch)
            self._served_name = f"refine-{self._ref.fingerprint[:16]}"
            self._resources.enter_context(
                loaded_adapter(session.loop, session.sites, self._served_name, folder)
            )
        return session

    @cached_property
    def _local(self) -> Backend:
        base = replace(self._ref, adapters=())
        opened = transformers_backend(base, self._device, self._config)
        return self._resources.enter_context(opened)

    async def _answer(self, site: Site, request: Request) -> Completion:
        sampling, server, post = request.sampling, site.server, site.connection.post
        if isinstance(sampling, Scoring):
            scores, label_tokens, prompt_tokens = [], [], 0
            for label in sampling.labels:
                answer = await post(COMPLETIONS, scoring_body(request, label, self._served_name))
                score, tokens = label_score(answer, label)
                scores.append(score)
                label_tokens.append(tokens)
            prompt_tokens = self.count_tokens(request.prompt)
            done = scored_completion(scores, prompt_tokens, label_tokens)
            return replace(done, server=server)
        body = writing_body(request, sampling, self._served_name, server.api)
        answer = await post(CHAT if server.api == "chat" else COMPLETIONS, body)
        return written(answer, request, sampling, server, self.count_tokens)


def _require_scores(session: EndpointSession) -> None:
    if missing := [server.url for server in session.servers if not server.scores]:
        raise EndpointError(
            "the server gives no log-probabilities of a text, which the reviewer needs",
            where=", ".join(missing),
            fix="add `labels` to generator.endpoint_local (base_model then scores them), serve the "
            "model with vLLM or SGLang, or set teams_rl.evolved_seeds to 0",
        )


def endpoint_fingerprint(ref: ModelRef, device: Device, config: GeneratorConfig) -> str:
    """The name of a model as servers run it, 64 hex digits: by config and adapters alone."""
    parts: list[object] = ["endpoint", config.endpoint_model, config.endpoint_api]
    for folder in ref.adapters:
        parts += [file_hash(Path(folder) / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    if "labels" in config.endpoint_local:
        base = replace(ref, adapters=())
        parts.append({"labels": backend_fingerprint("transformers", base, device)})
    return json_hash(parts)


@contextmanager
def endpoint_backend(ref: ModelRef, device: Device, config: GeneratorConfig) -> Iterator[Backend]:
    """A backend for a model; a trained one runs on local weights where `endpoint_local` says so.

    Raises:
        EndpointError: a model whose weights were all trained would be needed from the servers.
    """
    is_trained = ref.adapters or ref.is_trained
    if is_trained and "trained" in config.endpoint_local:
        with transformers_backend(ref, device, config) as backend:
            yield backend
        return
    if ref.is_trained:
        raise EndpointError(
            "all weights of this model were trained in the run, and servers load adapters alone",
            where=ref.path,
            fix="add `trained` to generator.endpoint_local, or set reinforcement.weights to `lora`",
        )
    text = model_text(replace(ref, adapters=()), None)
    with ExitStack() as resources:
        yield EndpointBackend(ref, device, config, text, resources)
