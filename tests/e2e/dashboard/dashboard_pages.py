#!/usr/bin/env python3
"""The dashboard's pages with the arguments that are worth looking at; run as a program, it keeps a picture of each: light, dark, phone.

    dashboard_pages.py FOLDER [WORD]    needs selenium and chromium; WORD: only pages that have it in their names"""

import re
import sys
from pathlib import Path

OPERATORS = ["overview", "usage?by=key", "usage?range=7d&by=tenant&compare=1", "errors", "errors?kind=tpot", "requests", "tenants", "tenants?view=top", "tenant/acme", "tenant/acme?view=adapters", "tenant/acme?view=keys", "tenant/acme?view=limits", "adapters", "adapters?sort=cold",
             "adapter/acme/sql", "aliases", "aliases?tenant=acme", "alias/acme/prod", "canary", "canary?alias=prod&tenant=acme", "engines", "limits", "limits?tenant=acme", "invoice", "invoice?tenant=acme", "exports", "webhooks", "webhooks?tenant=acme", "keys", "events", "audit", "ledger"]
TENANTS = ["overview", "usage", "usage?by=version&measure=cost_nano&range=30d", "errors", "requests", "adapters", "adapter/sql", "upload", "aliases", "alias/prod", "canary", "canary?alias=prod", "try", "limits", "invoice", "exports", "webhooks", "keys", "events"]
PHONE = (390, 844)


def pictures(folder, word=""):
    from browser import Browser
    from mock_gateway import OPERATOR, TENANT, Mock
    folder.mkdir(parents=True, exist_ok=True)
    mock, browser = Mock(), Browser(folder)
    try:
        for role, url, key, pages in (("operator", mock.admin_url, OPERATOR, OPERATORS), ("tenant", mock.url, TENANT, TENANTS)):
            browser.full_size()
            browser.login(url, key)
            for scheme, width in (("light", 1440), ("dark", 1440), ("light", PHONE[0])):
                browser.scheme(scheme)
                for page in (p for p in pages if word in p):
                    browser.size(width, 900)
                    browser.open(page)
                    browser.size(width, min(2600, max(700, browser.js("return document.documentElement.scrollHeight"))))
                    browser.settle()
                    browser.shot(folder / f"{role}-{scheme}-{width}-{re.sub('[^a-z0-9]+', '-', page)}.png")
    finally:
        browser.close()
        mock.close()


if __name__ == "__main__":
    pictures(Path(sys.argv[1]), *sys.argv[2:3])
