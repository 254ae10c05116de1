"""A missing browser is a failure that says what to do, never a skip."""

import pytest

from opd_toy.explorables import browser


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(browser.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(browser, "playwrights_own", lambda: None)


def test_a_named_browser_that_is_not_there_is_quoted(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(
        FileNotFoundError, match="CHROMIUM is '/nowhere/chromium', where there is no file"
    ):
        browser.find_chromium()


def test_a_named_browser_comes_first(monkeypatch, tmp_path):
    mine = tmp_path / "mine"
    mine.touch()
    monkeypatch.setenv("CHROMIUM", str(mine))
    assert browser.find_chromium() == str(mine)


def test_none_found_and_none_to_be_had_fails_and_says_what_to_install(bare, monkeypatch):
    monkeypatch.setattr(browser.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(
        SystemExit, match="apt install chromium.*playwright install chromium.*CHROMIUM"
    ):
        browser.main()


def test_none_found_is_installed_by_playwright_first(bare, monkeypatch):
    tried = []

    def install(command, **_):
        tried.append(command[1:])
        monkeypatch.setattr(browser, "playwrights_own", lambda: "/opt/chromium")

    monkeypatch.setattr(browser.subprocess, "run", install)
    browser.main()
    assert tried == [["-m", "playwright", "install", "chromium"]]
