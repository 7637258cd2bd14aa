"""The index is the one that pip would use."""

from __future__ import annotations

import os

import pytest

from mova_core.model.parts.pip_settings import PipSettings, pip_settings


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No configuration of this user."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))


@pytest.fixture
def pip_conf(tmp_path, monkeypatch):
    path = tmp_path / "chosen.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def test_a_configuration_file_is_honoured(pip_conf):
    pip_conf.write_text(
        "[global]\nindex-url = https://me:it's@mirror.example/simple\ncert = /ca.pem\nproxy = http://proxy:3128\n"
        "extra-index-url =\n  https://one.example/simple\n  https://two.example/simple\n"
    )
    assert pip_settings() == PipSettings(
        (
            "https://me:it's@mirror.example/simple",
            "https://one.example/simple",
            "https://two.example/simple",
        ),
        cert="/ca.pem",
        proxy="http://proxy:3128",
    )


def test_the_install_section_overrides_global_and_the_environment_both(pip_conf, monkeypatch):
    pip_conf.write_text(
        "[install]\nindex-url = https://install.example/simple\nextra-index-url = https://extra.example\n"
        "[global]\nindex-url = https://global.example/simple\n"
    )
    assert pip_settings().index_urls == ("https://install.example/simple", "https://extra.example")
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    monkeypatch.setenv("PIP_CERT", "/env.pem")
    assert pip_settings().index_urls[0] == "https://env.example/simple"
    assert pip_settings().cert == "/env.pem"


def test_without_pip_the_environment_is_still_honoured(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert pip_settings() == PipSettings(("https://pypi.org/simple",))
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    assert pip_settings().index_urls == ("https://env.example/simple",)
