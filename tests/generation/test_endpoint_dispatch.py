"""Whatever a server does has an outcome: an answer, another try, a refused prompt, or an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from refine_dagster import progress
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.endpoint import dispatch
from refine_dagster.generation.endpoint.connection import LONGEST_QUOTE, one_line
from refine_dagster.generation.endpoint.dispatch import TRIES
from refine_dagster.generation.endpoint.messages import as_continuation, label_score
from refine_dagster.generation.endpoint.outcomes import EndpointError, Failed
from refine_dagster.generation.request import Completion, Request, Sampling, Scoring, label_scores
from tests.builders.endpoints import endpoint_backend_on
from tests.builders.stub_server import StubServer, running, words_for

SAMPLING = Sampling(8, temperature=0.7, stop=("\n\n",))


def requests_of(*prompts: str) -> list[Request]:
    return [Request("propose", prompt, SAMPLING, seed) for seed, prompt in enumerate(prompts)]


def answers(
    requests: Sequence[Request], *stubs: StubServer, **settings: Any
) -> dict[str, Completion]:
    """Prompt -> completion."""
    with endpoint_backend_on(*stubs, **settings) as backend:
        found = dict(answer for batch in backend.generate(requests) for answer in batch)
    assert sorted(found) == list(range(len(requests)))
    return {request.prompt: found[place] for place, request in enumerate(requests)}


def test_plain_answers_carry_seed_text_tokens_and_server() -> None:
    stub = StubServer()
    with running(stub):
        [request] = requests_of("a b c")
        done = answers([request], stub)["a b c"]
    assert done.text == words_for("stub", "a b c", 0)
    assert (done.prompt_tokens, done.completion_tokens, done.finish_reason) == (3, 3, "eos")
    assert all("seed" in body for body in stub.asked)
    server = done.server
    assert server is not None
    assert (server.software, server.version, server.api) == ("vllm", "1.2.3", "completions")
    assert (server.repeats, server.scores, server.template_tokens) == (True, True, None)


def test_seeds_fit_into_32_bits_and_still_differ() -> None:
    stub = StubServer()
    with running(stub):
        asked = [Request("propose", "a", SAMPLING, seed) for seed in (2**62 + 5, 2**62 + 6)]
        with endpoint_backend_on(stub) as backend:
            list(backend.generate(asked))
    seeds = [body["seed"] for body in stub.asked[-2:]]
    assert seeds == [5, 6]


def test_a_server_that_does_not_repeat_itself_is_known_for_it() -> None:
    stub = StubServer(repeats=False)
    with running(stub):
        done = answers(requests_of("a"), stub)["a"]
    assert done.server is not None
    assert done.server.repeats is False


@pytest.mark.parametrize("mark", ["@500", "@cut", "@half", "@nothing", "@text"])
def test_what_fails_once_is_asked_again(mark: str) -> None:
    stub, prompt = StubServer(), f"a {mark}once"
    with running(stub):
        found = answers(requests_of(prompt, "b"), stub)
    assert found[prompt].text == words_for("stub", prompt, 0)
    assert stub.prompts().count(prompt) == 2
    assert stub.prompts().count("b") == 1


@pytest.mark.parametrize(
    ("mark", "problem", "asked"),
    [
        ("@400", "400 this prompt is not allowed", 1),
        ("@filter", "content_filter", 1),
        ("@500", f"500 out of luck, {TRIES} times", TRIES),
        ("@cut", f"the connection was cut (ServerDisconnectedError), {TRIES} times", TRIES),
        ("@half", f"the answer is not JSON, or half of it, {TRIES} times", TRIES),
    ],
)
def test_a_prompt_that_is_never_answered_is_refused_and_others_go_on(
    mark: str, problem: str, asked: int
) -> None:
    stub, prompt = StubServer(), f"a {mark}"
    with running(stub):
        found = answers(requests_of(prompt, "b", "c"), stub)
    assert found[prompt].refused
    assert (found[prompt].text, found[prompt].problem) == ("", problem)
    assert stub.prompts().count(prompt) == asked
    assert not found["b"].refused
    assert not found["c"].refused


def test_a_request_that_takes_too_long_is_asked_again() -> None:
    stub = StubServer()
    with running(stub):
        found = answers(requests_of("a @slowonce"), stub, endpoint_timeout_s=0.3)
    assert found["a @slowonce"].text == words_for("stub", "a @slowonce", 0)


def test_a_full_server_is_sent_less_and_answers_everything_once() -> None:
    stub, prompts = StubServer(most=3, delay_s=0.01), [f"p{number}" for number in range(40)]
    with running(stub):
        found = answers(requests_of(*prompts), stub, endpoint_concurrency=12)
    assert not any(done.refused for done in found.values())
    assert sorted(stub.prompts()) == sorted(prompts)
    assert stub.declined > 0
    assert stub.most_at_once <= 3


def test_retry_after_is_waited_for() -> None:
    stub = StubServer(most=1, retry_after="0.4", delay_s=0.05)
    with running(stub):
        begun = time.monotonic()
        answers(requests_of("a", "b"), stub, endpoint_concurrency=2)
    assert stub.declined >= 1
    assert time.monotonic() - begun >= 0.4


def test_one_of_three_servers_dies_and_the_others_answer() -> None:
    stubs = [StubServer(delay_s=0.02) for _ in range(3)]
    prompts = [f"p{number}" for number in range(60)]
    lines: list[str] = []
    with running(*stubs) as served:
        timer = threading.Timer(0.3, served[1].die)
        with (
            progress.reporting(progress.CallbackReporter(lines.append)),
            endpoint_backend_on(*stubs, endpoint_concurrency=2) as backend,
        ):
            batches = backend.generate(requests_of(*prompts))
            timer.start()
            found = dict(answer for batch in batches for answer in batch)
        timer.join()
    assert {prompts[place]: done.text for place, done in found.items()} == {
        prompt: words_for("stub", prompt, seed) for seed, prompt in enumerate(prompts)
    }
    assert all(stub.prompts() for stub in stubs)
    assert any(f"{stubs[1].url} cannot be reached" in line for line in lines)


def test_an_outage_refuses_nothing_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE_S", 0.3)
    stub = StubServer()
    with running(stub) as [served], endpoint_backend_on(stub) as backend:
        list(backend.generate(requests_of("a")))
        served.die()
        with pytest.raises(EndpointError, match="no server answers") as caught:
            list(backend.generate(requests_of("b", "c")))
    assert "run again" in str(caught.value)


def test_a_broken_server_that_recovers_refuses_nothing() -> None:
    stub = StubServer()
    with running(stub), endpoint_backend_on(stub) as backend:
        list(backend.generate(requests_of("a")))
        stub.broken = True
        threading.Timer(0.8, setattr, (stub, "broken", False)).start()
        found = dict(answer for batch in backend.generate(requests_of("b")) for answer in batch)
    assert found[0].text == words_for("stub", "b", 0)


@pytest.mark.parametrize(
    ("stub", "settings", "said"),
    [
        (StubServer(model="other"), {}, "has no model 'stub'; it serves other"),
        (StubServer(key="k"), {}, "refuses the key"),
        (StubServer(chat_only=True), {"endpoint_api": "completions"}, "not answer a plain request"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_asked(
    stub: StubServer, settings: dict[str, Any], said: str
) -> None:
    with running(stub), pytest.raises(EndpointError, match="no server can be used") as caught:
        answers(requests_of("a"), stub, **settings)
    assert said in str(caught.value)
    assert not stub.prompts()


def test_a_server_that_cannot_be_used_is_left_out_with_a_note() -> None:
    good, other, lines = StubServer(), StubServer(model="other"), list[str]()
    with running(good, other), progress.reporting(progress.CallbackReporter(lines.append)):
        found = answers(requests_of("a", "b"), good, other)
    assert len(found) == 2
    assert not other.prompts()
    assert any("left out" in line and other.url in line for line in lines)


def test_chat_is_used_where_nothing_else_is_and_its_template_is_measured() -> None:
    stub = StubServer(chat_only=True)
    with running(stub):
        [request] = requests_of("Name two.\nTask 2:")
        done = answers([request], stub)[request.prompt]
    # The open line that the model says again is taken off.
    assert done.text == words_for("stub", request.prompt, 0)
    assert done.server is not None
    assert (done.server.api, done.server.template_tokens) == ("chat", 7)
    assert stub.asked[-1]["messages"] == [{"role": "user", "content": request.prompt}]


def test_tokens_are_counted_here_where_the_server_counts_none() -> None:
    stub = StubServer(usage=False)
    with running(stub):
        done = answers(requests_of("a b c d"), stub)["a b c d"]
    assert (done.prompt_tokens, done.completion_tokens) == (4, 3)


def test_labels_are_scored_by_what_the_server_echoes() -> None:
    stub = StubServer()
    with running(stub):
        asked = Request("review", "Is it?\nOutput:", Scoring((" yes", " no")), 0)
        done = answers([asked], stub)[asked.prompt]
    assert label_scores(done) == (-0.75, -0.5)
    assert (done.prompt_tokens, done.completion_tokens) == (3, 2)


def test_a_server_without_log_probabilities_is_an_error_that_says_what_to_do() -> None:
    stub = StubServer(scores=False)
    asked = Request("review", "Is it?", Scoring((" yes", " no")), 0)
    with running(stub), pytest.raises(EndpointError, match="no log-probabilities") as caught:
        answers([asked], stub)
    assert "generator.endpoint_local" in str(caught.value)
    assert not stub.prompts()


@pytest.mark.parametrize(
    ("tokens", "label", "score"),
    [
        (["<s>", "Is", " it", " yes", "."], " yes", (-3.0, 1)),
        (["Is", "Ġit", "Ġye", "s", "."], " yes", (-5.0, 2)),
        (["Is", "▁it", "▁", "yes", "."], " yes", (-5.0, 2)),
        (["Is", "it", "yes", "."], " yes", (-2.0, 1)),
    ],
)
def test_a_label_is_found_from_the_end(
    tokens: list[str], label: str, score: tuple[float, int]
) -> None:
    values = [None, *(-float(place) for place in range(1, len(tokens)))]
    answer = {"choices": [{"logprobs": {"tokens": tokens, "token_logprobs": values}}]}
    assert label_score(answer, label) == score


def test_a_label_that_shares_a_token_with_the_prompt_has_no_score() -> None:
    logprobs = {"tokens": ["Is", " it yes", "."], "token_logprobs": [None, -1.0, -1.0]}
    with pytest.raises(Failed, match="alone"):
        label_score({"choices": [{"logprobs": logprobs}]}, " yes")


def test_an_answer_in_a_chat_becomes_a_continuation() -> None:
    assert as_continuation("x\nInput:", "<noinput>\nOutput: a") == " <noinput>\nOutput: a"
    assert as_continuation("x\nInput:", "") == ""


def test_answers_of_a_slow_server_do_not_wait_for_a_full_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "HAND_OVER_S", 0.02)
    stub = StubServer(delay_s=0.06)
    with running(stub), endpoint_backend_on(stub, endpoint_concurrency=1) as backend:
        batches = list(backend.generate(requests_of("a", "b", "c")))
    assert [len(batch) for batch in batches] == [1, 1, 1]


def test_a_servers_words_are_one_harmless_line() -> None:
    said = "no\n such\x1b[2Jmodel\u202e " + "x" * 999
    assert one_line(said).startswith("no such[2Jmodel xxx")
    assert len(one_line(said)) == LONGEST_QUOTE


def test_a_closed_call_leaves_nothing_under_way() -> None:
    stub = StubServer(delay_s=0.01)
    with running(stub), endpoint_backend_on(stub, batch_size=2) as backend:
        batches = backend.generate(requests_of(*(f"p{number}" for number in range(400))))
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        sent = len(stub.asked)
        time.sleep(0.1)
        assert len(stub.asked) == sent < 400


def test_config_wants_servers_and_keeps_secrets_out_of_urls() -> None:
    with pytest.raises(ValueError, match="needs endpoint_urls"):
        GeneratorConfig(backend="endpoint", endpoint_model="m")
    for url in ("http://user:secret@host/v1", "host:8000", "http://host/v1?key=secret"):
        with pytest.raises(ValueError, match="without user"):
            GeneratorConfig(backend="endpoint", endpoint_model="m", endpoint_urls=(url,))
    plain = GeneratorConfig()
    assert not [name for name in plain.model_dump() if name.startswith("endpoint")]
    assert plain.deciding() == {}
