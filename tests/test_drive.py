"""Files on Google Drive, fetched by gdown from a server of ours."""

from __future__ import annotations

import inspect
import shutil
import ssl
import subprocess

import pytest
from helpers.server import BODY, HTML

from kd_utils.common.sources import SourceError, fetch

DRIVE_ID = "1AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.fixture
def drive(site, cache, tmp_path, monkeypatch):
    """A Google Drive on loopback: a proxy that answers for drive.google.com, under a certificate made here."""
    if not shutil.which("openssl"):
        pytest.skip("LEFT OUT: Drive downloads need the openssl command, to make a test certificate")
    names = "subjectAltName=DNS:drive.google.com,DNS:drive.usercontent.google.com"
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
        + ["-subj", "/CN=drive.google.com", "-addext", names],
        check=True,
        capture_output=True,
    )
    site.server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    site.server.tls.load_cert_chain(cert, key)
    for name, value in {"HTTPS_PROXY": site.url, "REQUESTS_CA_BUNDLE": str(cert), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for name in ("https_proxy", "NO_PROXY", "no_proxy", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return site


@pytest.mark.parametrize("link", ["file/d/{}/view?usp=sharing", "open?id={}", "uc?export=download&id={}"])
def test_drive_links(drive, cache, link):
    url = "https://drive.google.com/" + link.format(DRIVE_ID)
    path = fetch(url)
    assert path == cache / "drive" / DRIVE_ID / "weights.pth" and path.read_bytes() == BODY
    asked = len(drive.asked)
    path.with_name(".DS_Store").write_bytes(b"a file manager's")
    assert fetch(url) == path and len(drive.asked) == asked


def test_drive_errors(drive, cache):
    url = f"https://drive.google.com/file/d/{DRIVE_ID}/view"
    with pytest.raises(SourceError, match="no link to one file"):
        fetch("https://drive.google.com/drive/folders/" + DRIVE_ID)
    drive.body = HTML
    with pytest.raises(SourceError, match=rf"web page.* {url}.*put it by hand into .*{DRIVE_ID}/"):
        fetch(url)
    for drive.status, drive.html in ((404, True), (200, True)):  # not found; not shared with everyone
        with pytest.raises(SourceError, match=f"{url} could not be downloaded .*by hand into"):
            fetch(url)
    folder = cache / "drive" / DRIVE_ID
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine.pth").write_bytes(BODY)
    assert fetch(url) == folder / "mine.pth"


def test_gdown_takes_what_we_pass():
    import gdown

    assert {"id", "output"} <= set(inspect.signature(gdown.download).parameters)
