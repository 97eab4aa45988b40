"""LoRA adapters on servers that load them at run time, by vLLM's routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from refine_dagster.generation.endpoint.connection import Connection
from refine_dagster.generation.endpoint.dispatch import Site
from refine_dagster.generation.endpoint.loop_thread import LoopThread
from refine_dagster.generation.endpoint.outcomes import EndpointError, Outcome, Refused

LOAD, UNLOAD = "/load_lora_adapter", "/unload_lora_adapter"


async def loads_adapters(connection: Connection) -> bool:
    """Whether the server has the route: it then refuses a request without an adapter."""
    try:
        await connection.tell(LOAD, {})
    except Refused:
        return True
    except Outcome:
        return False
    return True


@contextmanager
def loaded_adapter(
    loop: LoopThread, sites: Sequence[Site], name: str, folder: str
) -> Iterator[None]:
    """Load the adapter in `folder`, which the servers must be able to read, on all of them.

    Raises:
        EndpointError: a server does not load it.
    """
    for site in sites:
        try:
            loop.run(site.connection.tell(LOAD, {"lora_name": name, "lora_path": folder}))
        except Outcome as error:
            if isinstance(error, Refused) and "already" in str(error):
                continue
            raise EndpointError(
                f"the server does not load the adapter of a trained model: {error}",
                where=site.server.url,
                fix="start vLLM with `--enable-lora`, a `--max-lora-rank` of at least the "
                "adapter's and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it can read the home's "
                "folder, or add `trained` to generator.endpoint_local",
            ) from error
    try:
        yield
    finally:
        for site in sites:
            try:
                loop.run(site.connection.tell(UNLOAD, {"lora_name": name}))
            except Outcome:
                # A server that is gone has unloaded it too.
                continue
