"""What a run with servers should know before it starts: what they are, and what they cannot do."""

from __future__ import annotations

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.endpoint.adapters import loads_adapters
from refine_dagster.generation.endpoint.outcomes import EndpointError
from refine_dagster.generation.endpoint.session import EndpointSession
from refine_dagster.generation.request import Server

LOCAL_STAGES = "reinforcement learning, fine-tuning, the judge and the privacy audit"
LABEL_STAGES = "instructor_policy and evolved_instructions"
TRAINED_STAGES = "rl_policy_checkpoint, instruction_dataset and evaluation_report"


def server_notes(config: GeneratorConfig, evolves: bool) -> list[str]:
    """One line for each server, then one for each thing that needs local weights.

    Servers that do not answer are no error: a run may find everything in the store.

    Args:
        evolves: whether TeaMs-RL is on.
    """
    if config.backend != "endpoint":
        return []
    notes = [f"{LOCAL_STAGES} use this machine's weights of base_model"]
    try:
        with EndpointSession(config) as session:
            servers = session.servers
            adapters = [session.loop.run(loads_adapters(site.connection)) for site in session.sites]
    except EndpointError as error:
        return [*notes, f"{error.what}: the run ends where the store does not have the answers"]
    no_scores = [server.url for server in servers if not server.scores]
    no_adapters = [server.url for server, loads in zip(servers, adapters, strict=True) if not loads]
    if "labels" in config.endpoint_local:
        notes.append(f"{LABEL_STAGES}: base_model scores the reviewer's labels on this machine")
    elif no_scores and evolves:
        notes.append(
            f"{LABEL_STAGES} need local weights: {', '.join(no_scores)} gives no log-probabilities "
            "of a text; add `labels` to generator.endpoint_local, or the run ends there"
        )
    if "trained" in config.endpoint_local:
        notes.append(f"{TRAINED_STAGES}: trained models answer on this machine")
    elif no_adapters:
        notes.append(
            f"{TRAINED_STAGES} need local weights: {', '.join(no_adapters)} loads no adapters at "
            "run time; add `trained` to generator.endpoint_local, or the run ends there"
        )
    return [*map(in_words, servers), *notes]


def in_words(server: Server) -> str:
    """One line about a server."""
    software = " ".join(filter(None, (server.software, server.version))) or "a server"
    said = [f"{server.url}: {software} serves {server.model} by {server.api}"]
    said.append("repeats itself" if server.repeats else "does not repeat itself")
    if server.template_tokens is not None:
        said.append(f"its chat template adds {server.template_tokens} tokens")
    return ", ".join(said)
