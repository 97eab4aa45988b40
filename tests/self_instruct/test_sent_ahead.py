"""After an edit, what waits for no other answer is sent together, and nothing else changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import methodcaller

from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.generation.request import Completion, Request
from refine_dagster.self_instruct.decisions import Demonstration
from refine_dagster.self_instruct.rounds import Proposals, Proposer, propose
from refine_dagster.warehouse.rows import Parent

WORDS = (
    "bird",
    "song",
    "river",
    "stone",
    "cloud",
    "market",
    "letter",
    "winter",
    "garden",
    "bridge",
)
CONFIG = SelfInstructConfig(
    target=400, requests_per_round=12, max_rounds=9, human_demonstrations=2, stall_rounds=9
)


def _sentence(seed: str) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    return "Write about " + " ".join(WORDS[byte % len(WORDS)] for byte in digest[:6])


@dataclass
class Store:
    """Answers by the request alone; `sent` has the sizes of what it did not know."""

    known: dict[str, Completion] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    looks: bool = True

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        keys = [request.key("model") for request in requests]
        self.sent.append(sum(key not in self.known for key in keys))
        for key in keys:
            self.known.setdefault(key, Completion(f" {_sentence(key)}", "stop", 1, 1))
        return [self.known[key] for key in keys]

    def stored(self, requests: Sequence[Request]) -> list[bool]:
        return [self.looks and request.key("model") in self.known for request in requests]

    def run(self, seeds: list[Demonstration], config: SelfInstructConfig = CONFIG) -> Proposals:
        self.sent.clear()
        key_of = methodcaller("key", "model")
        row = Parent("base_model", "1" * 32, "generator")
        proposer = Proposer(self.complete, self.stored, len, key_of, "model", row)
        return propose(seeds, proposer, config, "seed")


def _seeds(edited: int | None = None) -> list[Demonstration]:
    return [
        Demonstration(
            "seed_tasks",
            f"{number:032d}",
            f"s{number}",
            _sentence(f"seed {number}{' edited' if number == edited else ''}"),
        )
        for number in range(40)
    ]


def test_an_edit_sends_the_same_requests_in_as_many_calls_as_a_lane_has_rounds() -> None:
    first = Store()
    first.run(_seeds())
    assert first.sent == [12] * 9

    known = dict(first.known)
    by_round = Store(dict(known), looks=False)
    expected = by_round.run(_seeds(edited=3))
    ahead = Store(dict(known))
    made = ahead.run(_seeds(edited=3))

    assert made == expected
    assert ahead.known == by_round.known
    calls = [sent for sent in ahead.sent if sent]
    assert len(calls) <= CONFIG.lane_rounds < sum(sent > 0 for sent in by_round.sent)
    assert 0 < sum(calls) < 60


def test_an_unchanged_run_sends_nothing() -> None:
    store = Store()
    first = store.run(_seeds())
    assert store.run(_seeds()) == first
    assert sum(store.sent) == 0


def test_no_round_is_sent_ahead_that_no_earlier_run_has_asked() -> None:
    short = CONFIG.model_copy(update={"max_rounds": 4})
    store = Store()
    store.run(_seeds(), short)
    longer = Store(dict(store.known))
    longer.run(_seeds(edited=3))
    # Rounds 4 to 8 are new: each is sent when its turn has come.
    assert longer.sent[-5:] == [12] * 5
    assert len(longer.known) - len(store.known) == sum(longer.sent)


def test_the_published_draw_waits_for_every_round() -> None:
    everything = CONFIG.model_copy(update={"machine_pool": "all"})
    store = Store()
    store.run(_seeds(), everything)
    assert store.sent == [12] * 9
