"""What ``restmq doctor`` says about certificates: do they fit their keys, how long do they last?"""

import ssl
import time

from restmq.cli.doctor.findings import DEFAULTS, Finding, Findings, Thresholds, ok, problem, warning
from restmq.errors import StartupError
from restmq.settings import Settings
from restmq.tls import load_tls

DAY_SECONDS = 86_400
RENEW = "renew it; on SIGHUP a running server reads it again"

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_HANDSHAKE_ROUNDS = 10


def check_certificates(settings: Settings, thresholds: Thresholds = DEFAULTS) -> Findings:
    """Look at the certificate of each listener that has one."""
    for prefix, certificate, key in (
        ("tls", settings.tls_certificate, settings.tls_key),
        ("stomp", settings.stomp_certificate, settings.stomp_key),
    ):
        try:
            tls = load_tls(certificate, key, prefix=prefix)
        except StartupError as error:
            yield problem(
                "certificate", str(error), "correct it: the server does not start with it"
            )
            continue
        if tls is not None:
            yield _check_expiry(tls.context, certificate, thresholds)


def _check_expiry(server: ssl.SSLContext, certificate: str, thresholds: Thresholds) -> Finding:
    try:
        left_days = (_ends_at(server, certificate) - time.time()) / DAY_SECONDS
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return problem("certificate", f"{certificate} has expired", RENEW)
        what = f"{certificate} will not be believed: {error.verify_message}"
        return warning("certificate", what, "look at it with openssl x509 -text")
    except ssl.SSLError as error:
        what = f"{certificate} cannot be tried out: {error.reason or error}"
        return warning("certificate", what, "look at it with openssl x509 -text")
    what = f"{certificate} lasts for {left_days:.0f} days"
    if left_days < thresholds.short_certificate_days:
        return warning("certificate", what, RENEW)
    return ok("certificate", what)


def _ends_at(server: ssl.SSLContext, certificate: str) -> float:
    """Return when a certificate ends, in seconds since the epoch.

    A client that trusts it shakes hands with the server in memory, since only then does Python
    tell what is in a certificate. Raises SSLCertVerificationError for one that has expired.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be a root
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_HANDSHAKE_ROUNDS):
        if _is_done(ours):
            peer = ours.getpeercert() or {}
            return ssl.cert_time_to_seconds(str(peer["notAfter"]))
        _is_done(theirs)
    raise ssl.SSLError("no handshake comes about")


def _is_done(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
