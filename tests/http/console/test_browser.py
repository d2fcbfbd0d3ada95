"""The console in a real browser, against a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedserve import Embedder
from serving import Server

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed"),
]

SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
PATIENCE = 90
BEST = "E4417: water drips from the machine, close the tank."
"""By meaning; of another code."""
CODE = "E4471"
"""What only four of the texts are about."""


class Console:
    """One tab on the console."""

    def __init__(self, driver: WebDriver, server: Server) -> None:
        self.driver, self.server = driver, server

    def open(self, key: str | None) -> None:
        """The page, and the key typed in."""
        self.driver.get(f"{self.server.url}/")
        if key:
            self.one("#key").send_keys(key)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return list(self.driver.execute_script(script, selector))

    def write(self, selector: str, text: str) -> None:
        script = """const [field, text] = arguments;
        field.value = text;
        field.dispatchEvent(new Event("input", {bubbles: true}))"""
        self.driver.execute_script(script, self.one(selector), text)

    def run(self) -> None:
        """Press the button and wait until it can be pressed again."""
        self.one("#run").click()
        WebDriverWait(self.driver, PATIENCE).until(lambda _: self.one("#run").is_enabled())

    def stored(self) -> dict[str, str]:
        """The tab's session storage."""
        return dict(self.driver.execute_script("return {...sessionStorage}"))

    def token(self, text: str) -> WebElement:
        """The query's token of that text."""
        return next(token for token in self.all("#asked .token") if token.text == text)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def answered(driver: WebDriver, server: Server) -> Console:
    """The example, asked and answered once, for tests that only look and point."""
    console = Console(driver, server)
    console.open(server.key)
    console.run()
    return console


@pytest.fixture
def console(driver: WebDriver, server: Server) -> Iterator[Console]:
    """A tab of its own, with a session storage of its own."""
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    yield Console(driver, server)
    driver.close()
    driver.switch_to.window(first)


@pytest.fixture
def page(console: Console) -> Console:
    """A page whose modules can be called."""
    console.open(None)
    return console


def severe(driver: WebDriver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def test_one_press_ranks_the_example(answered: Console) -> None:
    assert answered.texts("#ranked .text")[0] == BEST
    shown = [float(value) for value in answered.texts("#ranked .scores .dense dd")]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == len(answered.one("#texts").get_attribute("value").splitlines())
    assert answered.one("#stat-ready dd").text == "ready"
    assert not answered.one("#problem").is_displayed()
    assert severe(answered.driver) == []


def test_scores_are_those_of_the_library(answered: Console, embedder: Embedder) -> None:
    query = answered.one("#query").get_attribute("value")
    asked = embedder.embed(query, text_type="query", output_type="dense&sparse")
    texts = answered.texts("#ranked .text")
    found = embedder.embed(texts, text_type="document", output_type="dense&sparse")
    dense = (found.dense @ asked.dense[0]).tolist()
    weights = dict(zip(asked.sparse[0].indices.tolist(), asked.sparse[0].values.tolist(), strict=True))
    sparse = [
        sum(weights.get(i, 0) * v for i, v in zip(s.indices.tolist(), s.values.tolist(), strict=True))
        for s in found.sparse
    ]
    both = (np.array(dense) + 0.05 * np.array(sparse)).tolist()
    for kind, expected in (("dense", dense), ("sparse", sparse), ("sum", both)):
        shown = [float(value) for value in answered.texts(f"#ranked .scores .{kind} dd")]
        assert shown == pytest.approx(expected, abs=2e-4)


def test_every_token_finds_its_place_in_the_example(answered: Console) -> None:
    assert len(answered.all("#ranked .token")) > 50
    assert answered.all(".also") == []


def test_pointing_at_a_token_lights_its_like_everywhere(answered: Console) -> None:
    ActionChains(answered.driver).move_to_element(answered.token("machine")).perform()
    lit = answered.all("#ranked .token.lit")
    assert [token.text for token in lit] == ["machine", "machine"]
    assert len({token.get_attribute("data-index") for token in lit}) == 1
    assert answered.token("machine").get_attribute("class") == "token marked lit"
    touched = answered.texts("#ranked > li.touched .text")
    assert touched == [text for text in answered.texts("#ranked .text") if "machine" in text]
    assert "in 2 of 9 texts" in answered.one("#readout").text
    ActionChains(answered.driver).move_to_element(answered.one("#likeness-title")).perform()
    assert answered.all(".token.lit") == []


def test_tokens_light_up_from_the_keyboard(answered: Console) -> None:
    start = answered.one("#asked .token[tabindex='0']")
    answered.driver.execute_script("arguments[0].focus()", start)
    assert start.text == "E"
    keys = ActionChains(answered.driver)
    keys.send_keys(Keys.END).perform()
    assert {token.text for token in answered.all(".token.lit")} == {"machine"}
    keys.send_keys(Keys.ENTER).perform()
    assert answered.driver.switch_to.active_element.get_attribute("aria-pressed") == "true"
    keys.send_keys(Keys.TAB).perform()
    ActionChains(answered.driver).move_to_element(answered.one("#likeness-title")).perform()
    keys.send_keys(Keys.ESCAPE).perform()
    assert answered.all(".token.lit, .token[aria-pressed='true']") == []


def test_ranking_by_words_brings_up_the_texts_that_share_them(answered: Console) -> None:
    answered.driver.execute_script("document.startViewTransition = undefined")
    answered.one("#rank-by input[value=sparse]").send_keys(Keys.SPACE)
    shown = [float(value) for value in answered.texts("#ranked .scores .sparse dd")]
    assert shown == sorted(shown, reverse=True)
    by_words = answered.texts("#ranked .text")
    assert [CODE in text for text in by_words] == [True] * 4 + [False] * 5
    assert shown.count(0) == 2
    # the map follows, so that its numbers are the places of the ranking
    names = answered.driver.execute_script(
        "return [...document.querySelectorAll('#map tbody th')].map(e => e.title)"
    )
    assert names[1:] == answered.texts("#ranked .text")
    answered.one("#rank-by input[value=dense]").send_keys(Keys.SPACE)


def test_the_map_is_symmetric_and_tells_of_a_pair(answered: Console) -> None:
    cells = np.array(answered.texts("#map tbody td"), float).reshape(10, 10)
    assert np.array_equal(cells, cells.T)
    assert np.array_equal(np.diag(cells), np.ones(10))
    assert cells[0, 1] == cells[0, 1:].max()
    ActionChains(answered.driver).move_to_element(answered.one("[data-pair='0,1']")).perform()
    assert BEST in answered.one("#pair").text
    assert "water" in answered.one("#pair").text


def test_a_wrong_key_shows_the_refusal_as_it_came(console: Console) -> None:
    console.open("sk-wrong")
    console.run()
    problem = console.one("#problem").text
    assert "401" in problem
    assert "invalid_api_key" in problem
    assert "Incorrect API key provided." in problem
    assert "request id" in problem
    assert console.one("#key").is_displayed()
    assert "embedserve.key" not in console.stored()
    console.one("#key").clear()
    console.one("#key").send_keys(console.server.key)
    console.run()
    assert not console.one("#problem").is_displayed()
    assert console.all("#ranked > li")


def test_a_refused_request_shows_the_refusal_as_it_came(console: Console) -> None:
    text = "word " * 9000
    console.open(console.server.key)
    console.write("#texts", text)
    console.write("#query", "")
    console.run()
    direct = console.server.native({"model": "text-embedding-v4", "input": {"texts": [text]}}).json()
    problem = console.one("#problem").text
    assert direct["code"] in problem
    assert direct["message"] in problem


def test_the_key_is_kept_in_this_tab_only(console: Console) -> None:
    console.open(console.server.key)
    console.write("#texts", "one")
    console.run()
    stored = console.stored()
    assert stored.pop("embedserve.key") == console.server.key
    assert console.server.key not in str(stored)
    assert console.driver.execute_script("return [localStorage.length, document.cookie]") == [0, ""]
    everything = console.driver.execute_script("return document.documentElement.outerHTML")
    assert console.server.key not in everything
    console.driver.refresh()
    assert not console.one("#key").is_displayed()
    console.one("#key-forget").click()
    assert console.server.key not in str(console.stored())
    assert console.one("#key").is_displayed()


def test_without_a_key_it_says_so(console: Console) -> None:
    console.open(None)
    console.one("#run").click()
    told = console.one("#key-missing")
    assert "keys create" in told.text
    assert console.driver.switch_to.active_element.get_attribute("id") == "key"
    console.one("#key").send_keys("s")
    assert not told.is_displayed()


@pytest.mark.parametrize(("width", "height"), [(1366, 633), (1366, 768), (1280, 600)])
def test_the_button_is_in_view_and_only_the_page_scrolls(console: Console, width: int, height: int) -> None:
    """A laptop's screen of 1366 × 768, with and without the browser's own bars."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    console.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        console.open(None)
        for _ in range(2):  # before and after the word about the key
            bottom = "return document.getElementById('run').getBoundingClientRect().bottom"
            assert console.driver.execute_script(bottom) < height
            console.one("#run").click()
        scrolling = """return [...document.querySelectorAll("main, main > *, .panel")].filter((element) =>
            ["auto", "scroll"].includes(getComputedStyle(element).overflowY)).length"""
        assert console.driver.execute_script(scrolling) == 0
    finally:
        console.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_was_typed_survives_a_reload(console: Console) -> None:
    console.open(console.server.key)
    console.write("#texts", "eins\nzwei")
    console.write("#query", "zwei?")
    console.run()
    script = "const [id, value] = arguments; document.getElementById(id).value = value"
    for field, value in (("dimension", "256"), ("text-type", "query"), ("instruct", "Find numbers")):
        console.driver.execute_script(script, field, value)
    console.driver.refresh()
    WebDriverWait(console.driver, PATIENCE).until(lambda _: len(console.all("#dimension option")) > 1)
    kept = {
        field: console.one(f"#{field}").get_attribute("value") for field in ("query", "texts", "text-type")
    }
    assert kept == {"query": "zwei?", "texts": "eins\nzwei", "text-type": "query"}
    assert console.one("#dimension").get_attribute("value") == "256"
    assert console.one("#instruct").get_attribute("value") == "Find numbers"
    assert console.one("#texts-count").text == "2, one a line"


def test_an_error_names_its_text_and_marks_the_ranking_as_old(console: Console) -> None:
    console.open(console.server.key)
    console.write("#texts", "\n".join(f"text {i}" for i in range(12)))
    console.run()
    assert not console.one(".stale").is_displayed()
    console.write("#texts", "\n".join([*(f"text {i}" for i in range(11)), "long " * 9000]))
    console.run()
    problem = console.one("#problem").text
    assert "Text 12" in problem
    assert "long long" in problem
    assert console.one(".stale").is_displayed()
    assert len(console.all("#ranked > li")) == 12
    console.write("#texts", "short again")
    console.run()
    assert not console.one("#problem").is_displayed()
    assert not console.one(".stale").is_displayed()


def test_three_hundred_texts_make_no_endless_page(console: Console) -> None:
    console.open(console.server.key)
    console.write("#texts", "\n".join(f"note {i} about a machine" for i in range(300)))
    console.run()
    assert console.driver.execute_script("return document.documentElement.scrollHeight") < 8_000
    assert len(console.all("#ranked > li")) == 40
    assert console.one("#more").text == "40 more of 260 below"
    console.one("#more").click()
    assert len(console.all("#ranked > li")) == 80
    console.one("#rank-by input[value=sparse]").send_keys(Keys.SPACE)
    assert len(console.all("#ranked > li")) == 80


def test_more_texts_than_a_request_takes_are_sent_in_several(console: Console) -> None:
    console.open(console.server.key)
    lines = [f"review number {i}" for i in range(12)]
    console.write("#texts", "\n".join(lines))
    console.write("#query", "")
    console.run()
    assert console.texts("#ranked .text") == lines
    assert "2 requests" in console.one("#bill").text
    assert not console.one("#rank-by").is_displayed()


def test_a_shared_token_below_a_text_lights_it_up_too(answered: Console) -> None:
    answered.driver.execute_script("window.scrollTo(0, 0)")
    ActionChains(answered.driver).move_to_element(answered.one("#ranked .term")).perform()
    name = answered.one("#ranked .term").text.split()[0]
    assert {token.text for token in answered.all(".token.lit")} == {name}


def test_the_strip_rests_while_nobody_looks(console: Console) -> None:
    console.open(None)
    WebDriverWait(console.driver, PATIENCE).until(lambda _: console.one("#stat-ready dd").text == "ready")
    assert console.one("#stat-queue dd").text.isdigit()
    counted = console.driver.execute_script(
        """let [started, stopped] = [0, 0];
        const [start, stop] = [window.setInterval, window.clearInterval];
        window.setInterval = (...given) => (started++, start(...given));
        window.clearInterval = (timer) => (stopped++, stop(timer));
        const show = (hidden) => {
          Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
          document.dispatchEvent(new Event("visibilitychange"));
          return [started, stopped];
        };
        return [show(true), show(false)]"""
    )
    assert counted == [[0, 1], [1, 2]]


def snippet(console: Console, form: str) -> str:
    console.driver.execute_script("document.getElementById(arguments[0]).click()", f"tab-{form}")
    return console.texts("#code")[0]


def test_the_python_snippet_runs_and_ranks_alike(answered: Console, tmp_path: Path) -> None:
    pytest.importorskip("dashscope")
    program = tmp_path / "snippet.py"
    program.write_text(snippet(answered, "python"), "utf-8")
    environment = {**os.environ, "DASHSCOPE_API_KEY": answered.server.key, "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE
    )
    assert run.returncode == 0, run.stderr
    printed = [line.split("  ", 3) for line in run.stdout.splitlines()]
    assert [line[3] for line in printed] == answered.texts("#ranked .text")
    assert [line[0] for line in printed] == answered.texts("#ranked .scores .dense dd")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_snippet_runs(console: Console) -> None:
    console.open(console.server.key)
    console.write("#texts", "one\ntwo")
    console.write("#query", 'it\'s "quoted" \\ and $HOME `pwd`')
    console.run()
    text = snippet(console, "curl")
    assert console.server.key not in text
    run = subprocess.run(
        ["bash", "-c", text],
        env={**os.environ, "DASHSCOPE_API_KEY": console.server.key},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    assert run.stdout.count('"sparse_embedding"') == 3, run.stdout[:300]


ODD_TEXTS = (
    "ＦＵＬＬ　ｗｉｄｔｈ　ｔｅｘｔ and ﬁne ligatures",
    "Straße, GROẞE ΟΔΟΣ und İstanbul",
    "getUserName() in http2_client.py, iPhone15Pro and re-order",
    "decomposed: cafe\u0301 nai\u0308ve Zu\u0308rich",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ น้ำ",
    "हिन्दी में लिखा हुआ एक वाक्य, क्षमा करें",
    "emoji 👩‍👩‍👧 between 🇩🇪 words 👍🏽",
    "한국어 문장 하나와 合わせた文",
    "a fast cat at a mat",
    "⅓ ² ℃ ㎏ … — “quotes”",
)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_alignment_loses_nothing_and_places_tokens(page: Console, embedder: Embedder, text: str) -> None:
    sparse = embedder.embed(text, output_type="sparse").sparse[0]
    entries = [
        {"index": index, "value": value, "token": token}
        for index, value, token in zip(
            sparse.indices.tolist(), sparse.values.tolist(), sparse.tokens, strict=True
        )
    ]
    found = page.driver.execute_async_script(
        """const [text, entries, done] = arguments;
        import("./align.js").then(({align}) => done(align(text, entries)), (error) => done(String(error)))""",
        text,
        entries,
    )
    assert "".join(part["text"] for part in found["parts"]) == text
    missing = [entry["token"] for entry in found["missing"]]
    assert len(missing) <= len(entries) // 5, missing


AXE = Path(__file__).parents[2] / "compat/node/node_modules/axe-core/axe.min.js"


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed (npm, tests/compat/node)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_anybodys_way(answered: Console, scheme: str) -> None:
    """Contrast, names, roles, order: what axe-core can see."""
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    answered.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ActionChains(answered.driver).move_to_element(answered.one("#likeness-title")).perform()
    answered.driver.execute_script(AXE.read_text("utf-8"))
    found = answered.driver.execute_async_script(
        """const done = arguments[0];
        axe.run().then(({violations}) => done(violations.map((rule) =>
          [rule.id, rule.nodes.map((node) => node.html + node.failureSummary)])))"""
    )
    assert found == []


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_sticks_out_at_any_width(answered: Console, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    answered.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert answered.driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        answered.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
