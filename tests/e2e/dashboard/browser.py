"""A headless Chromium that looks at the dashboard: opens pages, waits until they have settled, and keeps what went wrong on the way."""

import json
import time

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

WAIT_S, STEP_S, QUIET_S = 15, 0.02, 0.06
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-extensions", "--disable-background-networking", "--window-size=1360,900")
# Before any script of the page: what a policy refused, and errors that nobody caught.
WATCH = """
window.wrong = [];
addEventListener('securitypolicyviolation', e => wrong.push('policy: ' + e.violatedDirective + ' ' + e.blockedURI));
addEventListener('error', e => wrong.push('error: ' + e.message));
addEventListener('unhandledrejection', e => { if (!e.defaultPrevented) setTimeout(() => { if (!e.defaultPrevented) wrong.push('rejected: ' + e.reason); }); });
"""
BUSY = "return !document.getElementById('title') || !!document.querySelector('[aria-busy=true]') || document.querySelector('main').childElementCount === 0"


class Browser:
    def __init__(self, downloads):
        options = webdriver.ChromeOptions()
        for a in ARGUMENTS:
            options.add_argument(a)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        self.downloads = downloads
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def close(self):
        self.driver.quit()

    def cdp(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    # --- looking ---

    def find(self, selector):
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found else None

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector="body"):
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def until(self, ask, what="it"):
        end = time.monotonic() + WAIT_S
        while True:
            answer = ask()
            if answer:
                return answer
            assert time.monotonic() < end, f"{what} did not come about; the page says:\n{self.text()[:1500]}\n{self.trouble()}"
            time.sleep(STEP_S)

    def seen(self, words, selector="body"):
        return self.until(lambda: words in self.text(selector), f"“{words}” in {selector}")

    def gone(self, selector):
        self.until(lambda: not self.find(selector), f"the end of {selector}")

    def trouble(self):
        """All that went wrong since it was asked last: on the console, by the policy, uncaught."""
        logged = [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        return logged + self.js("const w = window.wrong || []; window.wrong = []; return w")

    # --- doing ---

    def click(self, selector):
        self.until(lambda: self.find(selector), selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def put(self, selector, text):
        """Types into a field, which then has only that."""
        at = self.until(lambda: self.find(selector), selector)
        at.clear()
        at.send_keys(text)
        return at

    def keys(self, *keys):
        for k in keys:
            ActionChains(self.driver).send_keys(k).perform()

    def leave_focus(self):
        self.js("document.activeElement?.blur()")

    def login(self, url, key, keep=False):
        if not self.js("return location.href").startswith(url):
            self.driver.get(url + "/dashboard")
        self.js("sessionStorage.clear(); localStorage.clear(); location.hash = ''")
        self.driver.refresh()
        self.put("#key", key)
        if keep:
            self.click("#keep")
        self.keys(Keys.ENTER)
        self.settle()

    def settle(self):
        self.until(lambda: not self.js(BUSY), "a page that has all its answers")
        time.sleep(QUIET_S)
        self.until(lambda: not self.js(BUSY), "a page that has all its answers")

    def open(self, page):
        self.js("location.hash = arguments[0]", "#/" + page)
        time.sleep(STEP_S)
        self.settle()

    def size(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def full_size(self):
        self.cdp("Emulation.clearDeviceMetricsOverride")

    def scheme(self, word):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": word}])

    def shot(self, path):
        path.write_bytes(self.driver.get_screenshot_as_png())

    def downloaded(self, ending):
        """The text of the file that comes next, which is then removed."""
        def whole():
            return [p for p in self.downloads.iterdir() if p.name.endswith(ending)]
        at = self.until(whole, f"a download of *{ending}")[0]
        text = at.read_bytes().decode()
        at.unlink()
        return text

    def call(self, module, script, *arguments):
        """Runs code beside one of the page's modules, as `m`."""
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1], a = arguments; import('/dashboard/{module}').then(m => done(JSON.stringify((() => {{ {script} }})()))).catch(e => done(JSON.stringify('failed: ' + e)))", *arguments)

    def calls(self, module, script, *arguments):
        return json.loads(self.call(module, script, *arguments))
