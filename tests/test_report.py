"""`ctd-agent report`: one page, opened from disk in a real browser."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from ctd_agent.cli import run as cli
from ctd_agent.commands import report
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.transitions import Transition, TransitionLog, new_run
from ctd_agent.measure.characterize.record import (
    Characterization,
    CurvePoint,
    ErrorExample,
    Errors,
    Step,
    Swap,
    Variant,
)
from ctd_agent.measure.metrics import Interval
from ctd_agent.measure.report.page import page
from ctd_agent.measure.trace import Trace
from ctd_agent.schema import (
    ChosenLabel,
    Exchange,
    FoundLabel,
    Gold,
    LabeledDocument,
    Reply,
    SearchResult,
    Selection,
    ShortlistEntry,
)

HOSTILE = "</script><img src=x onerror=document.title='hacked'>"
HERE = Interval(0.5, 0.25, 0.75)
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def document(key: str, text: str, chosen: str, shortlist: str, found: str) -> tuple[LabeledDocument, list[Transition]]:
    """A result and its steps; labels are letters, named by their capitals."""
    labels = [ChosenLabel(id=one, name=one.upper(), rank=rank, score=0.9) for rank, one in enumerate(chosen, start=1)]
    entries = [ShortlistEntry(id=one, score=0.1, found_by=[]) for one in shortlist]
    hits = [FoundLabel(id=one, name=one.upper(), rank=rank, score=1.0) for rank, one in enumerate(found, start=1)]
    search = SearchResult(source="labels", turn=0, query="", limit=100, found=hits)
    thought = Exchange(messages=[], replies=[Reply(content="{}", reasoning="A fits best.")])
    selection = Selection(labels=labels, scores=dict.fromkeys(shortlist, 0.9))
    steps = [
        Transition(
            run="r", document=key, step=0, phase="search", node="read", goto="select", text=text, searches=[search],
            added=list(found),
        ),
        Transition(
            run="r", document=key, step=1, phase="select", node="select", goto="finish", exchange=thought,
            selection=selection,
        ),
    ]  # fmt: skip
    return LabeledDocument(id=key, labels=labels, shortlist=entries, usage={}), steps


DOCUMENTS = [
    document("first", f"A text {HOSTILE}", "a", "ab", "abc"),
    document("second", "Another text", "x", "xb", "xbc"),
    document("third", "A third", "", "", ""),
]
GOLD = {"first": "a", "second": "bc", "third": "z"}


def characterization() -> Characterization:
    """A record of made-up figures: what a page is drawn from."""
    curve = [CurvePoint(at=at, recall=HERE) for at in (1, 2, 5)]
    variants = [
        Variant(name=name, documents=3, metrics={"P@1": HERE, "RP@5": HERE}, differences={"P@1": HERE, "RP@5": HERE})
        for name in ("whole", "no descriptions")
    ]
    swap = Swap(
        shortlisters=["hybrid", "whole"], selectors=["order", "model"], values=[[HERE, HERE], [HERE, HERE]], gain=HERE,
        shares={"shortlist": HERE, "select": HERE},
    )  # fmt: skip
    return Characterization(
        documents=3,
        labels=9,
        task="topics",
        shortlister="m",
        selector="m",
        embedder="static",
        candidates=2,
        seed=0,
        recall_by_candidates=curve,
        recall_by_searches=curve[:2],
        selection_given=variants,
        ablations=variants,
        swap=swap,
        steps=[Step(name=name, focus=HERE, confusion=HERE) for name in ("the search", "the selection")],
        errors=[
            Errors(
                name="never retrieved", count=1, share=0.3, examples=[ErrorExample(document="d", label="z", name="Z")]
            )
        ],
        findings=[f"Found {HOSTILE}."],
    )


@pytest.fixture(autouse=True)
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with its log, gold and a characterization, on disk."""
    monkeypatch.chdir(tmp_path)
    Path("run.jsonl").write_text("".join(result.model_dump_json() + "\n" for result, _ in DOCUMENTS))
    common = {"task": "topics", "shortlister": "m", "selector": "m", "prompts": {}, "catalogue": "", "embedder": ""}
    log = TransitionLog(Path("run.jsonl.transitions.jsonl")).begin(new_run(**common, labels=9, budget=Budget()))
    for _, steps in DOCUMENTS:
        log.write(steps)
    rows = ({"id": key, "labels": list(labels)} for key, labels in GOLD.items())
    Path("gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("found.json").write_text(characterization().model_dump_json())


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a window."""
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as running:
        yield running


def opened(browser: webdriver.Chrome, *arguments: str) -> webdriver.Chrome:
    """Make the page, and open it from disk."""
    assert cli(["report", *arguments, "--out", "page.html"]) == 0
    browser.get_log("browser")
    browser.get(Path("page.html").resolve().as_uri())
    return browser


def listed(browser: webdriver.Chrome) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, "[role=option]")


def requested(browser: webdriver.Chrome) -> set[str]:
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = (event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent")
    return {url for url in urls if not url.startswith("data:")}


def test_the_page_opens_without_the_network_or_an_error_and_what_is_hostile_stays_text(browser: webdriver.Chrome):
    browser.get_log("performance")
    opened(browser, "run.jsonl", "--gold", "gold.jsonl", "--characterization", "found.json")
    assert browser.get_log("browser") == []
    assert requested(browser) == {Path("page.html").resolve().as_uri()}
    assert browser.title == "ctd-agent report"
    listed(browser)[0].click()
    assert HOSTILE in browser.find_element(By.CSS_SELECTOR, "#document pre").text
    assert HOSTILE in browser.find_element(By.CLASS_NAME, "findings").text
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert browser.title == "ctd-agent report"


def test_of_a_long_run_some_documents_can_be_opened_and_all_of_them_count(monkeypatch: pytest.MonkeyPatch):
    assert cli(["report", "run.jsonl", "--gold", "gold.jsonl", "--out", "all.html"]) == 0
    monkeypatch.setattr(report, "SHOWN", 2)
    assert cli(["report", "run.jsonl", "--gold", "gold.jsonl", "--out", "some.html"]) == 0
    every, some = (Path(name).read_text() for name in ("all.html", "some.html"))
    funnel = re.compile(r'<ol class="funnel">.*?</ol>', re.DOTALL)
    assert funnel.findall(some) == funnel.findall(every)
    said = f"{len(DOCUMENTS)} documents"
    assert said in every
    assert f"{said} · 2 of them below, drawn at random" in some


def test_a_broken_line_of_the_results_is_named(capfd: pytest.CaptureFixture[str]):
    with Path("run.jsonl").open("a") as run:
        run.write('["no result"]\n{"id": 7}\n')
    assert cli(["report", "run.jsonl", "--out", "page.html"]) == 2
    told = capfd.readouterr().err
    assert f"error: run.jsonl:{len(DOCUMENTS) + 1}: not a LabeledDocument" in told
    assert not Path("page.html").exists()


def test_the_funnel_says_what_is_left_of_the_right_labels(browser: webdriver.Chrome):
    opened(browser, "run.jsonl", "--gold", "gold.jsonl")
    stages = [stage.text.split("\n") for stage in browser.find_elements(By.CSS_SELECTOR, ".funnel li")]
    assert [" ".join(stage) for stage in stages] == [
        "catalogue 9.0 100% of the right labels",
        "retrieved 2.0 75% of the right labels",
        "shortlist 1.3 50% of the right labels",
        "chosen 0.7 25% of the right labels",
    ]


def test_documents_are_filtered_by_class_of_error_and_by_words(browser: webdriver.Chrome):
    opened(browser, "run.jsonl", "--gold", "gold.jsonl")
    assert len(listed(browser)) == 3
    choice = Select(browser.find_element(By.ID, "class"))
    choice.select_by_visible_text("wrongly chosen (1)")
    assert [row.text.split("\n")[0] for row in listed(browser)] == ["second: Another text"]
    choice.select_by_visible_text("all right (1)")
    assert [row.text.split("\n")[0][:5] for row in listed(browser)] == ["first"]
    choice.select_by_visible_text("all")
    browser.find_element(By.ID, "find").send_keys("third")
    assert len(listed(browser)) == 1
    assert browser.find_element(By.ID, "count").text == "1 of 3"


def test_a_document_is_reached_and_shown_by_keyboard_alone(browser: webdriver.Chrome):
    opened(browser, "run.jsonl", "--gold", "gold.jsonl")
    for _ in range(20):
        focused = browser.switch_to.active_element
        if focused.get_attribute("id") == "list":
            break
        focused.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    shown = browser.find_element(By.ID, "document").text
    assert shown.startswith("second\nAnother text")
    assert "✗ X wrong" in shown.replace("(x)", "").replace("  ", " ")
    assert "A fits best." in shown
    assert "shortlisted and not chosen" in shown
    assert "retrieved and cut" in shown
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("aria-label") == "Text"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_overflows_in_any_width_or_scheme(browser: webdriver.Chrome, scheme: str, width: int):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened(browser, "run.jsonl", "--gold", "gold.jsonl", "--characterization", "found.json")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_five_thousand_documents_open_in_two_seconds(browser: webdriver.Chrome):
    """Each as long as a real one: 100 hits, 20 of them shortlisted, a page of text."""
    result, steps = DOCUMENTS[0]
    names = [f"label {number}" for number in range(100)]
    hits = [FoundLabel(id=name, name=name, rank=rank, score=1.0) for rank, name in enumerate(names, start=1)]
    search = SearchResult(source="labels", turn=0, query="", limit=100, found=hits)
    first = steps[0].model_copy(
        update={"text": "A sentence of a document. " * 60, "searches": [search], "added": names}
    )
    entries = [ShortlistEntry(id=name, score=0.1, found_by=[]) for name in names[:20]]
    gold = Gold(frozenset("a"))
    cases = [
        Trace(f"d{n}", [first, steps[1]], None, result.model_copy(update={"id": f"d{n}", "shortlist": entries}), gold)
        for n in range(5_000)
    ]
    Path("page.html").write_text(page(cases))
    started = time.monotonic()
    browser.get(Path("page.html").resolve().as_uri())
    assert browser.find_element(By.ID, "count").text == "5,000 of 5,000"
    seconds = time.monotonic() - started
    browser.find_element(By.ID, "list").send_keys(Keys.END)
    assert browser.find_element(By.CSS_SELECTOR, "#document h2").text == "d4999"
    assert seconds < 2


def test_a_characterization_alone_makes_a_page_without_documents():
    assert cli(["report", "--characterization", "found.json", "--out", "page.html"]) == 0
    assert 'id="explorer" class="explorer" hidden' in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing to report: give a RUN, --eval or --characterization"),
        (["none.jsonl"], "none.jsonl: cannot be read: No such file"),
        (["--characterization", "gold.jsonl"], "gold.jsonl: not a characterization"),
        (["--eval", "none.json"], "none.json: cannot be read"),
        (["run.jsonl", "--out", "no/such/folder.html"], "no/such/folder.html: cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]):
    assert cli(["report", *arguments]) == 2
    said = capfd.readouterr().err
    assert complaint in said
    assert "Traceback" not in said
