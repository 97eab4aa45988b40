"""The registry: own entries, entry points of other packages, and its errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from assets.graph import facts
from refine_dagster.config.profile import load_profile
from refine_dagster.config.section import ProfileError, plug_ins_of
from refine_dagster.registry import ALGORITHMS, BACKENDS, OPERATIONS, Registry, RegistryError

GROUP = "refine_dagster.rewards"
Part = Callable[..., list[float]]


def _own(prompts: list[str], completions: list[str]) -> list[float]:
    return [0.0] * len(prompts)


@pytest.fixture
def registry() -> Registry[Part]:
    return Registry(GROUP, "reward part", {"own": f"{__name__}:_own"})


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution with one module and one entry point on the path."""

    def _install(package: str, point: str, source: str, group: str = GROUP) -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{package}.py").write_text(source, encoding="utf-8")
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(f"[{group}]\n{point}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, package, raising=False)

    return _install


BREVITY = """
def brevity(prompts, completions, **columns):
    return [1.0 / len(text) for text in completions]
"""


def test_an_entry_point_joins_the_projects_own(
    registry: Registry[Part], install: Callable[..., None]
) -> None:
    assert registry.names() == ["own"]
    install("brief_rewards", "brevity = brief_rewards:brevity", BREVITY)
    assert registry.names() == ["brevity", "own"]
    assert "brief_rewards" not in sys.modules  # listing imports nothing
    found = registry.entry("brevity")
    assert (found.package, found.version) == ("brief_rewards", "1.2")
    assert found.value(["a"], ["word"]) == [0.25]
    assert registry.get("own") is _own
    assert registry.entry("own").version == ""


def test_a_declared_version_goes_before_the_packages(
    registry: Registry[Part], install: Callable[..., None]
) -> None:
    install(
        "versioned_rewards",
        "brevity = versioned_rewards:brevity",
        f"{BREVITY}\nbrevity.version = 7",
    )
    assert registry.entry("brevity").version == "7"


def test_an_unknown_name_lists_the_known_ones(
    registry: Registry[Part], install: Callable[..., None]
) -> None:
    install("brief_rewards", "brevity = brief_rewards:brevity", BREVITY)
    with pytest.raises(
        RegistryError, match=r"no reward part is called 'brevty'; known: brevity, own"
    ):
        registry.get("brevty")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named"),
        ("other = 1", "AttributeError"),
        ("raise ZeroDivisionError('at import')", "ZeroDivisionError: at import"),
        ("brevity = 3", "is of type int, which cannot be called"),
    ],
)
def test_a_broken_plug_in_is_named_with_its_package(
    registry: Registry[Part], install: Callable[..., None], source: str, what: str
) -> None:
    install("broken_rewards", "brevity = broken_rewards:brevity", source)
    assert registry.get("own") is _own  # others are not hurt
    with pytest.raises(RegistryError, match=r"'brevity' of broken_rewards") as raised:
        registry.get("brevity")
    assert what in raised.value.what


def test_two_plug_ins_of_one_name_are_refused(
    registry: Registry[Part], install: Callable[..., None]
) -> None:
    install("one_rewards", "brevity = one_rewards:brevity", BREVITY)
    install("two_rewards", "brevity = two_rewards:brevity", BREVITY)
    with pytest.raises(
        RegistryError, match=r"2 packages provide .*'brevity': one_rewards, two_rewards"
    ):
        registry.get("brevity")


def test_a_plug_in_does_not_replace_the_projects_own(
    registry: Registry[Part], install: Callable[..., None]
) -> None:
    install("rude_rewards", "own = rude_rewards:brevity", BREVITY)
    assert len(entry_points(group=GROUP, name="own")) == 1
    with pytest.raises(RegistryError, match=r"'own': refine-dagster, rude_rewards"):
        registry.get("own")


@pytest.mark.parametrize(
    "registry", [BACKENDS, ALGORITHMS, OPERATIONS], ids=lambda registry: registry.noun
)
def test_this_projects_own_values_are_where_the_registry_says(registry: Registry[Part]) -> None:
    assert all(registry.entry(name).value for name in registry.own)
    assert registry.versions(*registry.own) == {}


@pytest.mark.parametrize(
    "field", ["generator.backend", "reinforcement.algorithm", "teams_rl.fixed_operation"]
)
def test_config_refuses_an_unknown_name_and_lists_the_known_ones(field: str) -> None:
    unknown = rf"{field} = 'grop' \(--set\): no \w+ is called 'grop'; known: "
    with pytest.raises(ProfileError, match=unknown):
        load_profile("offline", {field: "grop"}, environment={})


def test_a_plug_in_is_named_with_its_version_in_what_depends_on_it(
    install: Callable[..., None],
) -> None:
    install(
        "echo_backends",
        "echo = echo_backends:echo",
        "def echo(*a): pass",
        "refine_dagster.backends",
    )
    profile = load_profile("offline", {"generator.backend": "echo"}, environment={})
    assert "echo_backends" not in sys.modules
    assert plug_ins_of(profile.generator) == {"plug_ins": {"backend echo": "echo_backends 1.2"}}
    known = facts()
    assert known["raw_instructions"].config_of(profile)["plug_ins"] == {
        "backend echo": "echo_backends 1.2"
    }
    assert "plug_ins" not in known["fine_tuned_model"].config_of(profile)
    plain = load_profile("offline", environment={})
    assert not any("plug_ins" in one.config_of(plain) for one in known.values())
