"""URLs in messages: no user, password or signature."""

from __future__ import annotations

import pytest

from tools.common.urls import redact, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@host:8080/a.tar.gz", "https://host:8080/a.tar.gz"),
        ("https://host/a.zip?X-Amz-Signature=abc#part", "https://host/a.zip"),
        ("https://token@host/a", "https://host/a"),
        ("https://a@b@host/", "https://host/"),
        ("file:///tmp/a.tar", "file:///tmp/a.tar"),
        ("http://[secret", "http://…"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_every_url_in_a_text_is_shown_without_secrets() -> None:
    text = "cannot fetch HTTPS://user:pass@host/a?X-Amz-Signature=abc: it redirects to 'http://u@other/b?c=d' (see it)"
    assert redact(text) == "cannot fetch https://host/a it redirects to 'http://other/b' (see it)"


def test_a_text_without_urls_stays_as_it_is() -> None:
    text = "layer-slim.zip: 0644 user@host a://, what? http:/x"
    assert redact(text) == text
