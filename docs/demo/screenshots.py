"""Makes the pictures of docs/demo.md: `python docs/demo/screenshots.py --model runs/mine/model --raw starter`.

Needs chromium, chromedriver and the extras `demo` and `dev`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

HERE = Path(__file__).parent
PORT = 8799
INPUTS = "a pigeon\na herring"
TABLE = "id,text\n1,an owl\n2,a cod\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="starter")
    parser.add_argument("--raw", default="starter")
    arguments = parser.parse_args()
    flags = ["--model", arguments.model, "--raw", arguments.raw, "--port", str(PORT)]
    server = subprocess.Popen([sys.executable, "-m", "maml_en_llm", "demo", *flags])
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        wait_for(f"http://127.0.0.1:{PORT}")
        browser.set_window_size(1200, 1130)
        browser.get(f"http://127.0.0.1:{PORT}")
        time.sleep(3)
        find = browser.find_element
        find("css selector", "textarea[data-name='inputs']").send_keys(INPUTS)
        find("css selector", "button[data-name='predict']").click()
        time.sleep(8)
        find("css selector", "textarea[data-name='csv']").send_keys(TABLE)
        find("css selector", "button[data-name='predict-table']").click()
        time.sleep(8)
        browser.save_screenshot(str(HERE / "page.png"))
    finally:
        browser.quit()
        server.terminate()


def wait_for(address: str) -> None:
    """Returns once `address` answers."""
    for _ in range(600):
        try:
            urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)


if __name__ == "__main__":
    main()
