"""The page: whole, safe, by itself, whatever the run holds."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.bench.report.conversations import TEXT, conversations
from llmproxy.bench.report.differences import as_it_is, words_differ
from llmproxy.bench.report.html import page
from llmproxy.bench.report.scales import scale
from llmproxy.bench.results import Check, Prompt, Result, Run, Target, Verdict
from tests.bench.sample import RECORDED, TARGETS, sample_run

VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}
LOADS = {"src", "srcset", "data", "poster", "action", "formaction", "background", "ping", "xlink:href"}


class Page(HTMLParser):
    """What a browser would take for elements; raises on one that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        assert len(attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str, cls: str = "") -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag and cls in found.get("class", "")]


def well_formed(run: Run) -> Page:
    """The page of a run, held to what is promised of every page."""
    text = page(run)
    assert text.startswith("<!doctype html>")
    text.encode()
    found = Page(text)
    assert len(found.ids) == len(set(found.ids))
    for tag, attributes in found.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "image"), tag
        assert not LOADS & attributes.keys(), attributes
        assert not [name for name in attributes if name.startswith("on")], attributes
        if "href" in attributes:
            assert attributes["href"].startswith("#") and attributes["href"][1:] in found.ids, attributes
        assert not any("nan" in value.split("%")[0].split() for value in attributes.values() if tag in ("line", "rect"))
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style and not re.search(r"url\(|@import|@font-face", style[1])
    assert len(found.all("script")) == 1
    return found


def run_of(*results: Result, targets: tuple[Target, ...] = TARGETS[:2]) -> Run:
    prompts = tuple(Prompt(turn, "m", f"question {turn}", 1) for turn in sorted({r.prompt for r in results}))
    return Run("r1", "2025-01-01T00:00:00Z", None, {}, targets, prompts, results)


def test_a_whole_run() -> None:
    run = sample_run()
    found = well_formed(run)
    assert len(found.all("details", "conversation")) == 40
    for target in run.targets:
        assert target.name in found.words
    assert len(found.all("svg", "chart")) == 2 + 3 + 6 + 1
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in found.all("svg", "chart"))
    assert "no difference seen" in found.words and "The price of local/smollm2 is unknown" in found.words
    assert found.all("line", "frontier")


def test_what_answers_hold_is_shown_and_never_runs() -> None:
    hostile = (
        "</script></style></pre><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7*7 }}\x00\x1b\ud800\r\n"
    )
    quoting = "\"><svg onload='x'>"
    prompt = Prompt(hostile, hostile, hostile, 1)
    target = Target(hostile + quoting, hostile, hostile, {hostile: quoting})
    done = Result(
        hostile, target.name, 0, "done", turn_id=hostile, text=hostile,
        tool_calls=((hostile, hostile), (quoting, "{}")),
        finish_reason=hostile, started_utc=hostile, duration_ms=1.0, cost_usd=0.1,
        checks=(Check(hostile, False, 0.3, hostile),), verdicts=(Verdict(hostile, "rubric", 0.1, hostile),),
    )  # fmt: skip
    failed = replace(done, repeat=1, status="failed", error=hostile + quoting)
    run = Run(hostile, hostile, hostile, {hostile: [hostile]}, (target,), (prompt,), (done, failed))
    found = well_formed(run)
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7*7 }}" in found.words
    assert "\N{SYMBOL FOR NULL}\N{SYMBOL FOR ESCAPE}\N{REPLACEMENT CHARACTER}" in found.words
    assert "49" not in found.words


def test_only_the_page_s_own_script_is_let_run() -> None:
    (policy,) = [m["content"] for m in well_formed(sample_run(prompts=1)).all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    assert "</" not in (files("llmproxy.bench.report") / "templates" / "page.js").read_text()


@pytest.mark.parametrize(
    "run",
    [
        Run("empty", "2025-01-01T00:00:00Z", None, {}, (), (), ()),
        Run("none", "2025-01-01T00:00:00Z", None, {}, TARGETS, (Prompt("p", "m", "q", 1),), ()),
        run_of(Result("p", RECORDED.name, 0, "done", text="a", duration_ms=0, cost_usd=0.0, output_tokens=0)),
        run_of(Result("p", TARGETS[1].name, 0, "done", text="a", duration_ms=5, checks=(Check("c", True),))),
        run_of(*(Result(f"p{i}", TARGETS[i % 2].name, 0, "failed", None, attempts=4) for i in range(4))),
        run_of(*(Result(f"p{i}", TARGETS[i % 2].name, 0, "skipped", "an image") for i in range(4))),
        run_of(*(Result(f"p{i}", t.name, 0, "done", cost_usd=0.0, checks=(Check("c", False),)) for i in range(9)
                 for t in TARGETS[:2])),
    ],
    ids=["empty", "no results", "one result", "one checked", "all failed", "only skipped", "all free and wrong"],
)  # fmt: skip
def test_runs_that_hold_little(run: Run) -> None:
    found = well_formed(run)
    assert len(found.all("details", "conversation")) == len(run.prompts)
    failed = sum(result.status == "failed" for result in run.results)
    assert (f"{failed // 2} failed" in found.words) == bool(failed)


def test_an_unknown_price_is_not_zero() -> None:
    unknown = run_of(*(Result(f"p{i}", t.name, 0, "done", "") for i in range(6) for t in TARGETS[:2]))
    words = well_formed(unknown).words
    assert "unknown" in words and "$0" not in words
    free = replace(unknown, results=tuple(replace(result, cost_usd=0.0) for result in unknown.results))
    words = well_formed(free).words
    assert "$0" in words and "unknown" not in words.replace("price unknown", "")


def test_the_worst_come_first() -> None:
    results = [
        Result("p1", "b", 0, "done", checks=(Check("c", True),)),
        Result("p2", "b", 0, "done", checks=(Check("c", False), Check("d", True))),
        Result("p3", "b", 0, "failed", "HTTP 500"),
        Result("p4", "b", 0, "skipped", "an image"),
    ]
    run = run_of(*results, targets=(RECORDED, Target("b", "u", "m")))
    assert [c.prompt.turn_id for c in conversations(run, RECORDED, 9)] == ["p3", "p2", "p1", "p4"]
    assert [c.prompt.turn_id for c in conversations(run, RECORDED, 2)] == ["p3", "p2"]


def test_without_checks_the_least_alike_come_first() -> None:
    texts = {"p1": ("a b c d", "a b c d"), "p2": ("a b c d", "x y z"), "p3": ("a b c d", "a b c x")}
    results = [
        Result(p, name, 0, "done", text=t) for p, both in texts.items() for name, t in zip("ab", both, strict=True)
    ]
    run = run_of(*results, targets=(Target("a", "u", "m"), Target("b", "u", "m")))
    assert [c.prompt.turn_id for c in conversations(run, run.targets[0], 9)] == ["p2", "p3", "p1"]


def test_a_large_run_is_cut_and_says_so() -> None:
    run = sample_run(prompts=120, repeats=1)
    long = tuple(replace(r, text=r.text + "word " * 2000) for r in run.results[:30]) + run.results[30:]
    text = page(replace(run, results=long), prompts=40)
    found = Page(text)
    assert len(found.all("details", "conversation")) == 40
    assert "The 40 worst of 120 prompts are shown; JSON and CSV have all." in found.words
    assert "more characters are not shown" in found.words
    assert len(text) < 40 * 4 * TEXT


def test_words_that_differ() -> None:
    found = words_differ("Take the old tram, early.", "Take the new tram,\nearly!")
    kinds = [(piece.kind, piece.text) for piece in found.pieces]
    assert kinds == [
        ("same", "Take the"), ("removed", " old"), ("same", " "), ("added", "new"), ("same", " tram,\nearly"),
        ("removed", "."), ("added", "!"),
    ]  # fmt: skip
    assert found.similarity == pytest.approx(10 / 14)


def test_characters_of_languages_without_spaces_are_words() -> None:
    assert [p.text for p in words_differ("東京は雨", "東京は雪").pieces if p.kind != "same"] == ["雨", "雪"]


def test_code_is_known_by_its_fences() -> None:
    pieces = as_it_is("Do:\n```py\nx = 1\n```\nDone.")
    assert [(piece.code, piece.text) for piece in pieces] == [
        (False, "Do:"), (True, "\n```py\nx = 1\n```"), (False, "\nDone."),
    ]  # fmt: skip


@settings(max_examples=80)
@given(st.text("ab \n`.東\u0301"), st.text("ab \n`.東\u0301"))
def test_what_was_not_removed_is_the_new_text(before: str, after: str) -> None:
    found = words_differ(before, after)
    assert "".join(piece.text for piece in found.pieces if piece.kind != "removed") == after
    assert 0 <= found.similarity <= 1
    assert words_differ(after, after).similarity == 1
    assert "".join(piece.text for piece in as_it_is(after)) == after


@given(st.lists(st.floats(0, 1e9), max_size=8), st.booleans())
def test_axes_hold_their_values(values: list[float], zero: bool) -> None:
    found = scale(values, zero=zero)
    assert (found.low < found.high and 0 < len(found.ticks) < 20) or found.logarithmic
    for value in values:
        assert found.low <= value * (1 + 1e-6) + 1e-300 and value <= found.high * (1 + 1e-6)
        assert 0 <= found(value) <= 1
    assert all(found.low <= tick * (1 + 1e-6) and tick <= found.high * (1 + 1e-6) for tick in found.ticks)


def test_ticks_are_round() -> None:
    assert scale([0, 180]).ticks == (0, 50, 100, 150, 200)
    assert scale([95, 9000]).ticks == (100, 200, 500, 1000, 2000, 5000)
