"""A missing browser is a failure that says what to do, never a skip."""

import runpy

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


def test_the_names_are_looked_for_in_their_order_where_programs_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "/somewhere")
    asked = []

    def which(name, path):
        asked.append((name, path))
        return f"/opt/{name}" if name == there else None

    monkeypatch.setattr(browser.shutil, "which", which)
    monkeypatch.setattr(browser, "playwrights_own", lambda: "its own")
    there = "google-chrome"
    assert browser.find_chromium() == "/opt/google-chrome"
    path = "/somewhere:/usr/bin:/usr/local/bin"
    first = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    assert asked == [(name, path) for name in first]
    there = None
    assert browser.find_chromium() == "its own"
    asked.clear()
    monkeypatch.delenv("PATH")
    browser.find_chromium()
    assert asked[1] == ("chromium", ":/usr/bin:/usr/local/bin") and len(asked) == 6


@pytest.mark.parametrize(
    "apt, root, packages", [(True, True, True), (True, False, False), (False, True, False)]
)
def test_what_is_tried_ends_with_the_first_that_helps(
    apt, root, packages, bare, monkeypatch, capfd
):
    tried = []
    monkeypatch.setattr(browser.shutil, "which", lambda name, **_: apt and name == "apt-get")
    monkeypatch.setattr(browser.os, "geteuid", lambda: 0 if root else 1000)

    def run(command, **options):
        assert options == {
            "timeout": 900, "stdin": browser.subprocess.DEVNULL, "stdout": browser.sys.stderr
        }  # fmt: skip
        tried.append(command)
        raise OSError("no network")

    monkeypatch.setattr(browser.subprocess, "run", run)
    browser.install_chromium()
    own = [browser.sys.executable, "-m", "playwright", "install", "chromium"]
    install = ["apt-get", "install", "-y", "-qq"]
    debian = [["apt-get", "update", "-qq"]]
    debian += [[*install, name] for name in ("chromium-headless-shell", "chromium")]
    assert tried == [own, *(debian if packages else [])]
    said = capfd.readouterr().err
    assert said == "".join(f"trying: {' '.join(each)}\nno network\n" for each in tried)


def test_what_takes_too_long_is_given_up(bare, monkeypatch, capfd):
    def run(command, **_):
        raise browser.subprocess.TimeoutExpired(command, 900)

    monkeypatch.setattr(browser.subprocess, "run", run)
    browser.install_chromium()
    assert "timed out after 900 seconds" in capfd.readouterr().err


def test_the_one_that_is_found_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(browser, "find_chromium", lambda: "/opt/chromium")
    monkeypatch.setattr(browser, "install_chromium", None)  # nothing to install
    browser.main()
    assert capsys.readouterr().out == "browser: /opt/chromium\n"


def test_playwrights_own_is_where_it_says_if_it_is_there(monkeypatch, tmp_path):
    from playwright import sync_api

    class Playwright:
        def __enter__(self):
            chromium = type("Chromium", (), {"executable_path": str(tmp_path / "chromium")})
            return type("Own", (), {"chromium": chromium})

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(sync_api, "sync_playwright", Playwright)
    assert browser.playwrights_own() is None
    (tmp_path / "chromium").touch()
    assert browser.playwrights_own() == str(tmp_path / "chromium")


def test_as_a_program_it_prints_where_it_found_one(monkeypatch, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.touch()
    monkeypatch.setenv("CHROMIUM", str(mine))
    runpy.run_path(browser.__file__, run_name="__main__")
    assert capsys.readouterr().out == f"browser: {mine}\n"
