"""Fixtures of the tests with a browser, a pytest plugin: the browser, its pages, and the errors of their consoles."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from browser import ConsoleErrors, browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESK = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def chrome() -> "Iterator[Browser]":
    with browser() as running:
        yield running


@pytest.fixture
def console_errors() -> ConsoleErrors:
    return ConsoleErrors()


@pytest.fixture
def new_page(chrome: "Browser", console_errors: ConsoleErrors) -> "Iterator[Callable[..., Page]]":
    """Yield a function that opens pages, each in a new browser profile; errors of the console are recorded."""
    contexts = []

    def make(**options: Any) -> "Page":
        context = chrome.new_context(**{"viewport": DESK, "reduced_motion": "reduce"} | options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        console_errors.listen(page)
        return page

    yield make
    for context in contexts:
        context.close()
