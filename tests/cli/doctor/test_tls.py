"""What the doctor finds in certificates: real ones, made by openssl."""

import shutil
import subprocess
from pathlib import Path

import pytest

from restmq.cli.doctor.findings import Finding, Thresholds
from restmq.cli.doctor.tls import check_certificates
from restmq.settings import Settings

AUTHORITY = """
[ca]
default_ca = own
[own]
new_certs_dir = {place}
database = {place}/index
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")


def openssl(*words: str | Path) -> None:
    """Run it."""
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


def certificate(place: Path, start: str, end: str, *flags: str | Path) -> tuple[Path, Path]:
    """Make a certificate that holds between two times (YYYYMMDDHHMMSSZ), and its key."""
    place.mkdir()
    (place / "index").touch()
    (place / "ca.conf").write_text(AUTHORITY.format(place=place))
    key, request, made = place / "key.pem", place / "request.pem", place / "certificate.pem"
    openssl(
        *("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", "/CN=localhost"),
        *("-out", request),
    )
    openssl(
        *("ca", "-batch", "-config", place / "ca.conf", "-in", request, "-out", made),
        *("-notext", "-startdate", start, "-enddate", end),
        *(flags or ("-selfsign", "-keyfile", key)),
    )
    return made, key


def only(settings: Settings, thresholds: Thresholds | None = None) -> Finding:
    """The one finding; it says what to do exactly when something is wrong."""
    (finding,) = check_certificates(settings, thresholds or Thresholds())
    assert finding.check == "certificate"
    assert bool(finding.remedy) is (finding.level != "ok")
    return finding


@pytest.mark.parametrize(
    ("start", "end", "level", "word"),
    [
        ("20200101000000Z", "20991231000000Z", "ok", "lasts for"),
        ("20200101000000Z", "20200201000000Z", "problem", "has expired"),
        ("20990101000000Z", "20991231000000Z", "warning", "not yet valid"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_found(
    tmp_path: Path, start: str, end: str, level: str, word: str
) -> None:
    """For either listener."""
    made, key = certificate(tmp_path / "own", start, end)
    for prefix in ("tls", "stomp"):
        finding = only(Settings(**{f"{prefix}_certificate": str(made), f"{prefix}_key": str(key)}))  # type: ignore[arg-type]
        assert finding.level == level
        assert word in finding.what


def test_a_certificate_that_ends_soon_is_found(tmp_path: Path) -> None:
    """Sooner than a threshold."""
    made, key = certificate(tmp_path / "own", "20200101000000Z", "20991231000000Z")
    settings = Settings(tls_certificate=str(made), tls_key=str(key))
    assert only(settings, Thresholds(short_certificate_days=1e6)).level == "warning"


def test_a_certificate_of_an_authority_is_looked_at_itself(tmp_path: Path) -> None:
    """Its authority, which is not in the file, does not matter."""
    authority, authority_key = certificate(tmp_path / "ca", "20200101000000Z", "20991231000000Z")
    made, key = certificate(
        tmp_path / "server",
        "20200101000000Z",
        "20200201000000Z",
        *("-cert", authority, "-keyfile", authority_key),
    )
    assert only(Settings(tls_certificate=str(made), tls_key=str(key))).level == "problem"
    made, key = certificate(
        tmp_path / "other",
        "20200101000000Z",
        "20991231000000Z",
        *("-cert", authority, "-keyfile", authority_key),
    )
    assert only(Settings(tls_certificate=str(made), tls_key=str(key))).level == "ok"


def test_a_certificate_that_cannot_be_used_is_found(tmp_path: Path) -> None:
    """It is not there, its key is another's, or there is only a key."""
    made, key = certificate(tmp_path / "one", "20200101000000Z", "20991231000000Z")
    _, other = certificate(tmp_path / "two", "20200101000000Z", "20991231000000Z")
    for files in (
        {"tls_certificate": str(made), "tls_key": str(other)},
        {"tls_certificate": str(tmp_path / "none.pem")},
        {"tls_key": str(key)},
    ):
        assert only(Settings(**files)).level == "problem"  # type: ignore[arg-type]


def test_without_certificates_there_is_nothing_to_say() -> None:
    """Nothing at all."""
    assert list(check_certificates(Settings())) == []
