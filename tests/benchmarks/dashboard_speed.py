"""Time from a study's link to its drawn charts: `python tests/benchmarks/dashboard_speed.py LINK [SCREENSHOT]`.

LINK is what a running `python -m pipeline.dashboard` prints. Each of five times, Chromium opens it in a fresh profile.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time

from playwright.sync_api import sync_playwright

CHARTS = 11
"""Charts of a prepared view, apart from the section that is folded."""
DRAWN = f"""() => {{
    const plots = [...document.querySelectorAll('.js-plotly-plot')];
    return plots.filter(plot => plot.data.some(trace => trace.y?.length)).length >= {CHARTS};
}}"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("link", metavar="LINK", help="what a running `python -m pipeline.dashboard` prints")
    parser.add_argument("screenshot", metavar="SCREENSHOT", nargs="?", help="file for a picture of it")
    arguments = parser.parse_args()
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(5):
            # Charts are drawn once they come into view: all of them are in this one.
            page = browser.new_context(viewport={"width": 1600, "height": 2000}).new_page()
            began = time.perf_counter()
            page.goto(arguments.link)
            page.wait_for_function(DRAWN, timeout=120_000)
            seconds.append(time.perf_counter() - began)
            if arguments.screenshot:
                page.wait_for_timeout(2000)
                page.screenshot(path=arguments.screenshot)
            page.context.close()
        browser.close()
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{middle:.1f} s from link to charts (median of {len(seconds)}; {low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
