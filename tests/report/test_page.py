"""The report's page: what it shows, that hostile text stays text, and that it needs nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.report.page import MADE_BY, Report, read_report, render, write_report
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.lineage_story import tell
from tests.builders.rows import seed_row
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit, new_warehouse

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x07{{ 7*7 }}</style>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Tags, ids and targets of a page."""

    VOID = ("meta", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Three runs: an edit and a removal of a seed, with two exports."""
    return tell(Home(tmp_path_factory.mktemp("story") / "home"))


@pytest.fixture(scope="module")
def told(story: Warehouse) -> Report:
    return read_report(story)


@pytest.fixture(scope="module")
def html(told: Report) -> str:
    return render(told)


def test_the_page_is_well_formed_and_its_links_lead_somewhere(html: str) -> None:
    page = Page(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for tag, a in page.tags if tag == "a" and a["href"]}
    assert {target[1:] for target in targets if target} == set(ids) - {"head"}
    named = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert named == set(ids) - {"head"}


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "embed", "img", "form"}
    assert [a["href"] for tag, a in tags if tag == "link"] == ["data:,"]
    assert not [name for _, a in tags for name in a if name.startswith("on") or name == "src"]
    assert "http://" not in html
    assert "https://" not in html
    assert "url(#head)" in html
    assert html.count("url(") == html.count("url(#head)")
    policy = next(a["content"] for tag, a in tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_chart_says_what_it_shows(html: str) -> None:
    charts = [a for tag, a in Page(html).tags if tag == "svg" and a.get("role") == "img"]
    assert charts
    assert all(len(chart["aria-label"] or "") > 5 for chart in charts)


def test_hostile_text_is_shown_and_nothing_else(html: str, tmp_path: Path) -> None:
    plain = Page(html)
    warehouse = small_warehouse(tmp_path / "warehouse.duckdb")
    seeds = warehouse.read("seed_tasks").to_dicts()
    commit(warehouse, "seed_tasks", [*seeds, seed_row(HOSTILE, HOSTILE)])
    html = render(read_report(warehouse))
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
    assert shown in page.texts
    assert "\u202e" not in html
    assert "<script" not in html


def test_a_seed_that_led_to_nothing_is_named(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "warehouse.duckdb")
    seeds = warehouse.read("seed_tasks").to_dicts()
    commit(warehouse, "seed_tasks", [*seeds, seed_row("idle", "Name a stone.")])
    use = read_report(warehouse).seeds
    assert (use.seeds, use.fruitless) == (4, 1)
    assert [row[:4] for row in use.without.rows] == [("idle", "Name a stone.", 0, 0)]


def test_counts_and_funnel_of_the_small_warehouse(tmp_path: Path) -> None:
    report = read_report(small_warehouse(tmp_path / "warehouse.duckdb"))
    assert [tile.value for tile in report.tiles[:3]] == ["3", "3", "2"]
    [candidates, base, refined] = report.funnel
    assert (candidates.read, candidates.kept, candidates.unaccounted) == (6, 3, 0)
    assert {rule.rule: rule.count for rule in candidates.rejected} == {
        "too_similar": 1,
        "too_short": 1,
        "unparsed": 1,
    }
    marks = {part.name: part.mark for part in candidates.bar.segments}
    assert marks["unparsed"] == "failed"
    assert (base.kept, refined.kept) == (1, 2)
    assert report.is_reconciled
    assert [(s.rank, s.of, s.seeds) for s in report.samples] == [(1, 2, 3), (2, 2, 3)]


def test_a_funnel_that_does_not_add_up_is_said(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "warehouse.duckdb")
    decisions = warehouse.read("instruction_decisions").to_dicts()
    commit(warehouse, "instruction_decisions", decisions[1:])
    report = read_report(warehouse)
    assert [stage.unaccounted for stage in report.funnel] == [1, 0, 0]
    assert not report.is_reconciled
    assert "1 rows that the stage read have no decision" in render(report)


def test_what_the_last_run_changed(told: Report) -> None:
    changes = told.changes
    assert changes is not None
    assert changes.run_id == "run-3"
    assert changes.rows is not None
    causes = {row[-1] for row in changes.rows.rows if row[0] == "seed_tasks"}
    assert causes == {"seed reverse removed"}


def test_out_of_date_figures_are_marked(story: Warehouse, told: Report, tmp_path: Path) -> None:
    copy = shutil.copyfile(story.path, tmp_path / "warehouse.duckdb")
    story = Warehouse(copy)
    assert not told.stale
    seeds = story.read("seed_tasks").to_dicts()
    commit(story, "seed_tasks", seeds[1:])
    report = read_report(story)
    assert report.stale["raw_instructions"].changed == ("seed_tasks",)
    # It did not read the seeds; what it was made from is stale.
    assert report.stale["fine_tuned_model"].changed == ()
    assert report.stale["fine_tuned_model"].waits_for == ("base_model", "instruction_dataset")
    html = render(report)
    assert "<strong>Out of date:</strong> <code>instruction_dataset</code>" in html
    assert html.count("· out of date") == len(report.stale) - 1  # exports have no box


def test_an_empty_home_has_no_report_and_a_bare_one_has(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    with pytest.raises(RefineError, match="nothing was materialised"):
        read_report(warehouse)
    commit(warehouse, "seed_tasks", [seed_row("s1")])
    html = render(read_report(warehouse))
    assert Page(html).open == []
    assert "The dataset has no rows yet." in html


def test_a_report_replaces_a_report_and_no_other_file(story: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "report.html"
    write_report(story, path)
    first = path.read_bytes()
    assert MADE_BY in first
    write_report(story, path)
    assert path.read_bytes() == first
    path.write_text("my notes", encoding="utf-8")
    with pytest.raises(RefineError, match="no report"):
        write_report(story, path)
    with pytest.raises(RefineError, match="cannot write the report"):
        write_report(story, path / "below.html")
    assert path.read_text(encoding="utf-8") == "my notes"


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_contrast(html: str, scheme: str) -> None:
    """Text reaches 4.5 : 1 on what lies behind it, marks of charts 3 : 1 (WCAG 2.2, AA)."""
    light, dark, printed = re.findall(r":root \{([^}]*)\}", html)
    given = {"light": light, "dark": dark, "print": printed}[scheme]
    colours = dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", given))
    for text in ("text", "quiet", "link", "good", "bad", "plain"):
        for behind in ("page", "panel"):
            assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert _contrast(colours["warn"], colours["warn-page"]) >= 4.5
    for mark in ("kept", "rejected", "failed", "rest", *(f"shade{n}" for n in range(5))):
        assert _contrast(colours[mark], colours["page"]) >= 3, mark


def _contrast(first: str, second: str) -> float:
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.fixture
def profile(tmp_path: Path) -> list[str]:
    return ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'c'}"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_chromium_shows_it_without_a_word_on_the_console(
    html: str, tmp_path: Path, profile: list[str]
) -> None:
    assert CHROMIUM is not None
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    options = [*profile, "--enable-logging=stderr", "--v=0", "--window-size=390,900"]
    shot = tmp_path / "report.png"
    for option in (f"--screenshot={shot}", "--dump-dom"):
        result = subprocess.run(
            [CHROMIUM, *options, option, path.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in result.stderr
    assert shot.stat().st_size > 10_000
    assert "Run report" in result.stdout
