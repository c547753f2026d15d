"""report.html in a browser: no console message, no request, all figures, no overflow."""

import browser
import pytest


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here")
def test_the_report_works_alone_in_a_browser(finished_run, tmp_path):
    pytest.importorskip("websockets")
    report = finished_run / "report.html"
    with browser.open_page(tmp_path) as page:
        page.visit(report)
        for width_px in (1280, 390):
            found = page.measure(width_px)
            assert found["wide"] <= found["room"] <= width_px, width_px
            assert found["text"] > 1000
            assert len(found["images"]) >= 8
            assert all(found["images"])
        assert page.complaints() == []
        assert page.requests() == [report.resolve().as_uri()]


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here")
def test_the_browser_test_detects_defects(tmp_path):
    pytest.importorskip("websockets")
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<body><img src="missing.png"><div style="width: 3000px">wide</div>'
        "<script>console.error('loud')</script></body>"
    )
    with browser.open_page(tmp_path / "profile") as page:
        page.visit(bad)
        found = page.measure(1280)
        assert found["images"] == [False]
        assert found["wide"] > found["room"]
        assert any("loud" in str(complaint) for complaint in page.complaints())
        assert (tmp_path / "missing.png").as_uri() in page.requests()
