"""JupyterLab in the browser, used as a person uses it."""

import re

from playwright.sync_api import Page, expect

from tests.waiting import wait_for


def expect_lab(page: Page) -> None:
    """JupyterLab is there, with its file browser filled."""
    expect(page.locator("#jp-main-dock-panel")).to_be_visible()
    listing = page.locator(".jp-DirListing-content")
    try:
        expect(listing).to_be_visible()
    except AssertionError:  # on a busy machine its shell may stay without a side bar, until it is loaded again
        page.reload()
        expect(listing).to_be_visible()


def new_notebook(page: Page) -> None:
    """A notebook from the launcher, with its kernel running."""
    expect(page.locator(".jp-LauncherCard").first).to_be_visible()
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    expect(page.locator(".jp-Notebook-cell").first).to_be_visible()
    expect(page.locator(".jp-NotebookPanel-toolbar [data-status=idle]")).to_be_attached()


def run_cell(page: Page, code: str) -> str:
    """Put code into the notebook's cell, run it, and return what it printed once it is done."""
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    prompt = cell.locator(".jp-InputPrompt")
    before = prompt.inner_text()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)
    expect(cell.locator(".cm-content")).to_contain_text(code.splitlines()[-1])

    def done() -> bool:
        # On a busy machine the notebook shows itself before it has its kernel, and then runs nothing, or forgets it.
        text = prompt.inner_text()
        if text == before or "[ ]" in text:
            page.keyboard.press("Control+Enter")
        return text != before and re.search(r"\[\d+\]", text) is not None

    wait_for(done, timeout_s=120, every_s=1, what="the kernel to run the cell")
    output = cell.locator(".jp-OutputArea-output").first
    expect(output).to_be_visible()
    return str(output.inner_text()).strip()
