"""The pictures of pages in README: a sweep's report and its TensorBoard pages, in a real browser.

    make screenshots        # needs Chromium and FashionMNIST; the sweep takes five minutes on two CPU cores

A sweep that is finished already is not run again.
"""

import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

SWEEP = Path("outputs/sweeps/fashion_mnist")
SETTINGS = (
    "model=mlp",
    "data=fashion_mnist",
    "model.hidden_size=64,256",
    "optimizer.lr=1e-3,1e-2",
    "model.dropout=0,0.3",
    "model.batch_norm=true,false",
    "seed=range(3)",
    "trainer.max_epochs=3",
    f"name={SWEEP.name}",
)
SHOWN_RUNS = "lr-0.001_dropout-0_.*seed-0"  # in the time series
IMAGES = Path("docs/images")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE = 60  # seconds for TensorBoard to start, and to read all runs


def main() -> None:
    subprocess.run([sys.executable, "-m", "src.train", "-m", *SETTINGS], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        take_report(browser)
        with tensorboard() as address:
            take_time_series(browser, address)
            take_hparams(browser, address)


def chromium() -> str | None:
    """The system's Chromium; ``None``: playwright's own."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def take_report(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 1650})
    page.goto((SWEEP / "report.html").absolute().as_uri() + "#leaderboard")
    page.wait_for_selector("#effects .chart:last-child svg.main-svg")
    keep(page, "report")
    page.set_viewport_size({"width": 1200, "height": 620})
    page.goto(page.url.replace("#leaderboard", "#curves"))
    page.wait_for_selector("#curves-chart svg.main-svg")
    keep(page, "report_curves")


def take_time_series(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 700})
    page.goto(f"{address}/?runFilter={SHOWN_RUNS}&tagFilter=^val/#timeseries")
    page.locator("button", has_text="Settings").click()  # closes them
    page.wait_for_selector("line-chart", timeout=1000 * PATIENCE)
    keep(page, "tensorboard")


def take_hparams(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 2000, "height": 700})
    page.goto(f"{address}/#hparams")
    page.get_by_text("0_hidden_size").first.wait_for(timeout=1000 * PATIENCE)
    keep(page, "hparams")
    page.set_viewport_size({"width": 1300, "height": 640})
    page.get_by_text("PARALLEL COORDINATES VIEW").click()
    page.get_by_text("Color by").first.wait_for()
    keep(page, "parallel_coordinates")


def keep(page: Page, name: str) -> None:
    """Write what the page shows as a small PNG."""
    page.wait_for_timeout(3000)  # for what moves into its place
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").quantize(128).save(IMAGES / f"{name}.png", optimize=True)
    print(IMAGES / f"{name}.png")


@contextmanager
def tensorboard() -> Iterator[str]:
    """A TensorBoard of the sweep, by its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(SWEEP), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address, patience = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    try:
        while not answers(address):
            if time.monotonic() > patience:
                sys.exit("TensorBoard did not start")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        with urlopen(address):
            return True
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    main()
