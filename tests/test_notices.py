"""Notices wait while a line is being written, however often somebody asks for that."""

from __future__ import annotations

import pytest

from aded_cli.display import Notices


def test_notices_wait_for_the_end_of_the_outermost_block(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    with notices.kept():
        with notices.kept():
            notices("inner")
        notices("outer")
        assert capsys.readouterr().err == ""
        notices.show()
        assert capsys.readouterr().err.split() == ["inner", "outer"]
        notices("last")
        assert capsys.readouterr().err == ""
    assert "last" in capsys.readouterr().err
