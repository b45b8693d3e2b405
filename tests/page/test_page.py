"""The page in a browser, used as a person uses it: against a mount in memory, and against a real one.

What is promised: it shows what happens without being asked, does what its buttons say, works in two languages, with the
keyboard and on a phone, takes no name for HTML, and asks nobody but the mount for anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from gdah_drill.cluster import Cluster
from gdah_drill.waiting import wait_until
from mountfs.sync.servers import NO_CHOICE, Choice, Figures, choose
from mountfs.web.status import StatusServer, StatusSettings
from mountfs.web.status_page import LANGUAGES, PAGE
from tests.page.fake_view import FakeView, sample
from tests.page.sites import FakeSite, RealSite, Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000
EVIL = "<img src=x onerror=alert(1)>.txt"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        reason = f"no browser: none of {', '.join(CHROMIUM)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield running
        running.close()


class Watch:
    """What the page must never do: say errors, open dialogs of its own accord, ask anybody else."""

    def __init__(self, page: Page, url: str) -> None:
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        page.on("request", lambda asked: asked.url.startswith((url, "blob:")) or self.foreign.append(asked.url))
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))

    def check(self) -> None:
        refused = [error for error in self.errors if "Failed to load resource" not in error]
        assert not refused
        assert not self.foreign


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    contexts: list[BrowserContext] = []
    watches: list[Watch] = []

    def make(url: str, path: str = "/", **options: object) -> Page:
        context = browser.new_context(**{"locale": "en-GB", **options})  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        watches.append(Watch(page, url))
        page.goto(url + path)
        return page

    expect.set_options(timeout=PATIENCE_MS)
    yield make
    for context in contexts:
        context.close()
    for watch in watches:
        watch.check()


@pytest.fixture
def fake(view: FakeView, server: StatusServer) -> FakeSite:
    return FakeSite(view, server)


@pytest.fixture
def real(new_cluster: Callable[..., Cluster]) -> RealSite:
    cluster = new_cluster()
    cluster.start_servers()
    return RealSite(cluster, cluster.mount("laptop"))


def test_the_page_on_a_mount_in_memory(fake: FakeSite, open_page: Callable[..., Page], tmp_path: Path) -> None:
    use_the_page(fake, open_page, tmp_path)


@pytest.mark.mount
@pytest.mark.cluster
def test_the_page_on_a_real_mount(real: RealSite, open_page: Callable[..., Page], tmp_path: Path) -> None:
    use_the_page(real, open_page, tmp_path)


def use_the_page(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(site.url)
    expect(page).to_have_title("gdah — test_chamber")
    expect(page.locator("#connection")).to_have_attribute("data-state", "ok")
    expect(page.locator("#bar-title")).to_contain_text(re.compile(r"Connected to 127\.0\.0\.1:\d+"))
    expect(page.locator("#copies")).to_have_text("2/2")
    expect(page.locator("#servers li")).to_have_count(2)
    what_programs_do_appears(site, page)
    up_and_down(site, page, tmp_path)
    folders(site, page)
    language_and_lost_servers(site, page, tmp_path)


def row(page: Page, name: str) -> Locator:
    return page.locator("#rows tr").filter(has=page.locator(".name bdi", has_text=re.compile(f"^{re.escape(name)}$")))


def what_programs_do_appears(site: Site, page: Page) -> None:
    site.write("from a program.txt", b"made outside of the page")
    expect(row(page, "from a program.txt")).to_contain_text("24 B")
    site.write(EVIL, b"text")
    expect(row(page, EVIL)).to_be_visible()
    assert page.locator("#rows img").count() == 0


def up_and_down(site: Site, page: Page, tmp_path: Path) -> None:
    for name, data in (("relatório ção.txt", "conteúdo".encode()), ("large.bin", os.urandom(3_000_000))):
        (tmp_path / name).write_bytes(data)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Upload", exact=True).click()
        chooser.value.set_files(tmp_path / name)
        expect(row(page, name)).to_be_visible()
        wait_until(lambda name=name, data=data: site.read(name) == data, f"{name} is whole")  # type: ignore[misc]
        expect(row(page, name)).to_contain_text("Synced")
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download {name}", exact=True).click()
        assert download.value.suggested_filename == name
        assert Path(download.value.path()).read_bytes() == data
    drop(page, "dropped.txt", "by hand")
    expect(row(page, "dropped.txt")).to_be_visible()
    wait_until(lambda: site.read("dropped.txt") == b"by hand", "what was dropped is there")
    replace_by_upload(site, page, tmp_path)


def replace_by_upload(site: Site, page: Page, tmp_path: Path) -> None:
    (tmp_path / "dropped.txt").write_bytes(b"the second version")
    page.locator("#upload-input").set_input_files(tmp_path / "dropped.txt")
    expect(page.get_by_role("dialog")).to_contain_text("dropped.txt")
    page.get_by_role("button", name="Cancel", exact=True).click()
    assert site.read("dropped.txt") == b"by hand"
    page.locator("#upload-input").set_input_files(tmp_path / "dropped.txt")
    page.get_by_role("button", name="Replace", exact=True).click()
    wait_until(lambda: site.read("dropped.txt") == b"the second version", "it is replaced")


def drop(page: Page, name: str, text: str) -> None:
    page.evaluate(
        """([name, text]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([text], name));
            for (const type of ["dragenter", "dragover", "drop"])
                document.getElementById("files").dispatchEvent(
                    new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [name, text],
    )


def folders(site: Site, page: Page) -> None:
    page.get_by_role("button", name="New folder").press("Enter")
    page.keyboard.type("uma pasta")
    page.keyboard.press("Enter")
    row(page, "uma pasta").get_by_role("link", name="uma pasta").press("Enter")
    expect(page.locator("#crumbs [aria-current]")).to_have_text("uma pasta")
    expect(page.locator("#empty")).to_be_visible()
    site.write("uma pasta/inside.txt", b"inside")
    expect(row(page, "inside.txt")).to_be_visible()
    page.get_by_role("button", name="Rename inside.txt").click()
    page.locator("#ask-input").fill("renamed.txt")
    page.keyboard.press("Enter")
    expect(row(page, "renamed.txt")).to_be_visible()
    expect(row(page, "inside.txt")).to_have_count(0)
    wait_until(lambda: site.read("uma pasta/renamed.txt") == b"inside", "it is renamed")
    page.reload()
    expect(row(page, "renamed.txt")).to_be_visible()
    page.go_back()
    expect(row(page, "uma pasta")).to_be_visible()
    page.get_by_role("button", name="Delete uma pasta").click()
    page.keyboard.press("Escape")
    expect(row(page, "uma pasta")).to_be_visible()
    page.get_by_role("button", name="Delete uma pasta").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row(page, "uma pasta")).to_have_count(0)
    wait_until(lambda: site.read("uma pasta/renamed.txt") is None, "it is deleted")


def language_and_lost_servers(site: Site, page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Pull").click()
    expect(page.locator("#results")).to_contain_text("Up to date")
    page.get_by_label("Language").select_option("pt-BR")
    expect(page.get_by_role("heading", name="Arquivos")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Arquivos")).to_be_visible()
    expect(page.locator("#bar-title")).to_contain_text("Conectado a")
    site.servers_go()
    expect(page.locator("#connection")).to_have_attribute("data-state", "none")
    expect(page.locator("#bar-title")).to_contain_text("Nenhum servidor responde")
    (tmp_path / "offline.txt").write_bytes(b"without a server")
    page.locator("#upload-input").set_input_files(tmp_path / "offline.txt")
    expect(row(page, "offline.txt")).to_contain_text("Pendente")
    expect(page.locator("#pending")).to_contain_text("Criado: offline.txt")
    expect(page.locator("#bar-detail")).to_contain_text("Só neste dispositivo desde")
    page.get_by_role("button", name="Receber").click()
    expect(page.locator("#results")).to_contain_text("nenhum servidor responde")
    site.servers_return()
    expect(page.locator("#connection")).to_have_attribute("data-state", "ok")
    expect(row(page, "offline.txt")).to_contain_text("Sincronizado")
    expect(page.locator("#pending li")).to_have_count(0)
    page.get_by_role("button", name="Enviar").click()
    expect(page.locator("#results")).to_contain_text("está nos servidores")
    assert site.read("offline.txt") == b"without a server"


# --- what only the mount in memory shows easily


def test_the_browsers_language_is_taken(fake: FakeSite, open_page: Callable[..., Page]) -> None:
    expect(open_page(fake.url, locale="pt-BR").get_by_role("heading", name="Arquivos")).to_be_visible()


def test_every_reason_for_a_server_is_known_in_both_languages(fake: FakeSite, open_page: Callable[..., Page]) -> None:
    good, slow = Figures("http://a:1", usable=True, latency_ms=1), Figures("http://b:1", usable=True, latency_ms=99)
    gone, full = replace(slow, usable=False), replace(slow, trouble="the disk is full")
    failing = replace(slow, error_rate=0.5)
    on_slow = Choice(slow.url, "", good.url, 0.0)
    choices = [
        NO_CHOICE,
        choose([gone], on_slow, 9.0),
        choose([good], NO_CHOICE, 9.0),
        choose([good, slow], NO_CHOICE, 9.0),
        choose([good, gone], NO_CHOICE, 9.0),
        choose([good, gone], on_slow, 9.0, "no sign of life"),
        choose([good, slow], on_slow, 9.0),
        choose([good, slow], choose([good, gone], NO_CHOICE, 8.0), 9.0),
        choose([good, full], on_slow, 9.0),
        choose([good, failing], on_slow, 9.0),
    ]
    page = open_page(fake.url)
    ask = "async (why) => (await import('/page/reasons.js')).keyOf(why)"
    keys = {page.evaluate(ask, choice.why) for choice in choices}
    assert len(keys) == len(choices)
    for language in LANGUAGES:
        texts = json.loads((PAGE / f"{language}.json").read_text("utf-8"))
        assert keys <= texts.keys()


def test_a_phone_needs_no_sideways_scrolling(fake: FakeSite, view: FakeView, open_page: Callable[..., Page]) -> None:
    sample(view)
    view.add("w" * 250, b"1", state="conflict")
    page = open_page(fake.url, viewport={"width": 360, "height": 740})
    expect(row(page, "w" * 250)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_mount_that_ends_and_returns(view: FakeView, open_page: Callable[..., Page]) -> None:
    first = StatusServer(view, StatusSettings(port=0))
    first.start()
    view.add("before.txt", b"1")
    page = open_page(first.url)
    expect(row(page, "before.txt")).to_be_visible()
    first.stop()
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    view.add("meanwhile.txt", b"2")
    second = StatusServer(view, StatusSettings(port=first.port))
    second.start()
    expect(page.locator("#connection")).to_have_attribute("data-state", "ok")
    expect(row(page, "meanwhile.txt")).to_be_visible()
    page.close()
    second.stop()


def test_conflicts_and_names_that_are_no_text(fake: FakeSite, view: FakeView, open_page: Callable[..., Page]) -> None:
    view.add("dir\udcff", None)
    view.add("dir\udcff/x (conflict pc 1).txt", b"12", state="conflict")
    page = open_page(fake.url)
    expect(page.locator("#conflict-count")).to_have_text("1")
    page.locator("#conflicts button").click()
    expect(row(page, "x (conflict pc 1).txt")).to_contain_text("Conflict")
    page.reload()
    page.get_by_role("button", name="Delete x").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#empty")).to_be_visible()
    assert set(view.items) == {"dir\udcff"}
    expect(page.locator("#conflicts li")).to_have_count(0)


def test_what_the_brake_holds_is_shown_and_decided(
    fake: FakeSite, view: FakeView, open_page: Callable[..., Page]
) -> None:
    for name in ("one", "two", "three"):
        view.add(f"photos/{name}", b"x")
    page = open_page(fake.url, locale="pt-BR")
    expect(page.locator("#brake")).to_be_hidden()
    view.hold("photos/one")
    view.hold("photos/two")
    expect(page.locator("#brake-title")).to_have_text("2 exclusões estão retidas")
    expect(page.locator("#brake-folders li")).to_have_text(["photos: 2"])
    page.locator("#language").select_option("en")
    expect(page.locator("#brake-title")).to_have_text("2 deletions are held")
    page.get_by_role("button", name="Bring the files back").click()
    expect(page.locator("#brake")).to_be_hidden()
    assert set(view.items) == {"photos/one", "photos/two", "photos/three"}
    view.hold("photos/three")
    page.get_by_role("button", name="Delete them everywhere").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert set(view.held) == {"photos/three"}
    page.get_by_role("button", name="Delete them everywhere").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete them everywhere").click()
    expect(page.locator("#brake")).to_be_hidden()
    assert set(view.items) == {"photos/one", "photos/two"}


def test_a_refusal_is_said_in_the_readers_language(
    fake: FakeSite, view: FakeView, open_page: Callable[..., Page]
) -> None:
    view.add("there", None)
    page = open_page(fake.url, locale="pt-BR")
    for name, reason in (("there", "já existe algo com esse nome"), ("n" * 200 + "ç" * 50, "longo demais")):
        page.get_by_role("button", name="Nova pasta").click()
        page.locator("#ask-input").fill(name)
        page.keyboard.press("Enter")
        expect(page.locator("#results p.bad").last).to_contain_text(reason)
    assert set(view.items) == {"there"}


def test_ten_thousand_files(fake: FakeSite, view: FakeView, open_page: Callable[..., Page]) -> None:
    for number in range(10_000):
        view._put(f"f{number}", b"", "synced", 10**18)
    page = open_page(fake.url)
    expect(page.locator("#rows tr")).to_have_count(500)
    page.locator("#more").click()
    expect(page.locator("#rows tr")).to_have_count(1000)
    expect(page.locator("#rows tr").nth(10)).to_contain_text("f10")
    page.locator("[data-sort=name]").click()
    expect(page.locator("#rows tr").first).to_contain_text("f9999")


def test_the_login(view: FakeView, open_page: Callable[..., Page]) -> None:
    server = StatusServer(view, StatusSettings(host="0.0.0.0", port=0, token="the token"))
    server.start()
    view.add("seen.txt", b"1")
    page = open_page(f"http://127.0.0.1:{server.port}")
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Token").fill("the token")
    page.keyboard.press("Enter")
    expect(row(page, "seen.txt")).to_be_visible()
    page.close()
    server.stop()


def test_the_description_of_the_api(fake: FakeSite, open_page: Callable[..., Page]) -> None:
    page = open_page(fake.url, "/docs")
    expect(page.locator("#routes")).to_contain_text("/api/files")
