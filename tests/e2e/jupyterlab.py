"""JupyterLab in the browser, used as a person uses it."""

import re

from playwright.sync_api import Page, expect

from tests.waiting import wait_for


def expect_lab(page: Page) -> None:
    """JupyterLab is there, with its file browser filled."""
    expect(page.locator("#jp-main-dock-panel")).to_be_visible()
    expect(page.locator(".jp-DirListing-content")).to_be_visible()


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

    def taken() -> bool:
        # On a busy machine the notebook shows itself before it has its kernel, and then runs nothing.
        if prompt.inner_text() == before:
            page.keyboard.press("Control+Enter")
        return bool(prompt.inner_text() != before)

    wait_for(taken, timeout_s=60, every_s=1, what="the kernel to take the cell")
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"))
    output = cell.locator(".jp-OutputArea-output").first
    expect(output).to_be_visible()
    return str(output.inner_text()).strip()
