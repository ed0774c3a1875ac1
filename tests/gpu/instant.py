"""A pytest plugin that prints each failure when it happens: a run on a lent GPU may be cut off before its report."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        print(f"\n{report.nodeid}: {crash.message[:300] if crash else str(report.longrepr)[-300:]}", flush=True)
