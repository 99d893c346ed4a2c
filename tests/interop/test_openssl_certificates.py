"""OpenSSL and Python's TLS take our certificates and lists for what they are, and refuse what was revoked."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))

from authorities import DAY, KEYS, PASSPHRASE, RSA3072, enroll, spki

from bus.clock import SystemClock
from bus.identity.authority import open_authority
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust.certificates import Profile
from bus.trust.revocations import Reason

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
HOST = "bus.example"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """An authority by the clock on the wall, because OpenSSL looks at it; and every certificate that this file needs."""
    from anyio.from_thread import start_blocking_portal

    folder, made = tmp_path_factory.mktemp("openssl"), {}
    with start_blocking_portal() as portal:
        opening = open_authority(folder / "trust", domain="tpmbus.test", protection=PASSPHRASE, clock=SystemClock())
        with portal.wrap_async_context_manager(opening) as authority:
            made["rotated"] = enroll(authority, "ROTATED", key=KEYS[1])
            enroll(authority, "ROTATED", overlap_ms=DAY)
            made["revoked"] = enroll(authority, "REVOKED")
            made["agent"] = authority.issue_identity("ALPHA", RSA3072, IDENTITY_SUITES["rsa3072/sha3-384"], "hardware", 3, b"")
            made["broker"] = enroll(authority, "HUB", profile=Profile.BROKER)
            made["trust"] = authority.sign_statement(b"").signer
            for name in ("ALPHA", "HUB", "REVOKED"):
                key = ec.generate_private_key(ec.SECP256R1())
                made[f"tls {name}"] = authority.issue_tls(name, spki(key), [HOST], [ip_address("127.0.0.1")])
                private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                pem = x509.load_der_x509_certificate(made[f"tls {name}"]).public_bytes(Encoding.PEM)
                (folder / f"{name}.pem").write_bytes(private + pem)
            authority.revoke("REVOKED", Reason.COMPROMISED)
    for name, der in made.items():
        (folder / f"{name}.der").write_bytes(der)
    (folder / "root.pem").write_bytes((folder / "trust" / "public" / "root.pem").read_bytes())
    (folder / "crl.pem").write_bytes((folder / "trust" / "public" / "crl.pem").read_bytes())
    return folder


@pytest.fixture
def openssl(made):
    def run(*arguments, check=True):
        done = subprocess.run(["openssl", *arguments], cwd=made, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


# ---- certificates and lists ------------------------------------------------------------------------------------------------------

VERIFY = ["verify", "-x509_strict", "-crl_check", "-CAfile", "root.pem", "-CRLfile", "crl.pem"]


@pytest.mark.parametrize("name", ["agent", "broker", "trust", "tls ALPHA", "tls HUB"])
def test_openssl_verifies(openssl, name):
    assert openssl(*VERIFY, f"{name}.der").stdout.strip() == f"{name}.der: OK"


@pytest.mark.parametrize("name", ["revoked", "tls REVOKED", "rotated"])
def test_openssl_refuses_what_was_revoked(openssl, name):
    """It looks at no date: a rotated certificate is refused while the bus still takes it."""
    done = openssl(*VERIFY, f"{name}.der", check=False)
    assert done.returncode != 0
    assert "certificate revoked" in done.stderr
    assert openssl("verify", "-CAfile", "root.pem", f"{name}.der").returncode == 0, "but for the list it is good"


@pytest.mark.parametrize("name", ["agent", "broker", "trust"])
@pytest.mark.parametrize("purpose", ["sslclient", "sslserver", "smimesign"])
def test_openssl_takes_an_identity_for_nothing_else(openssl, name, purpose):
    assert openssl("verify", "-purpose", purpose, "-CAfile", "root.pem", f"{name}.der", check=False).returncode != 0


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_openssl_takes_tls_certificates_for_both_ends(openssl, purpose):
    openssl("verify", "-purpose", purpose, "-verify_hostname", HOST, "-CAfile", "root.pem", "tls HUB.der")
    done = openssl(
        "verify", "-purpose", purpose, "-verify_hostname", "other.example", "-CAfile", "root.pem", "tls HUB.der", check=False
    )
    assert done.returncode != 0


def test_openssl_reads_a_certificate_as_we_do(openssl):
    text = openssl("x509", "-in", "agent.der", "-inform", "der", "-noout", "-text").stdout
    for line in (
        "Version: 3 (0x2)",
        "Subject: CN = ALPHA",
        "URI:spiffe://tpmbus.test/agent/ALPHA",
        "CA:FALSE",
        "2.25.16993102144338698348540404301649632246.1\n",
        "2.25.16993102144338698348540404301649632246.10:",
        "Hash Algorithm: sha3-384",
        "Salt Length: 0x30",
    ):
        assert line in text, line
    assert text.count("critical") == 2


def test_openssl_reads_the_private_extension(openssl):
    lines = openssl("asn1parse", "-in", "agent.der", "-inform", "der").stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if line.endswith(":2.25.16993102144338698348540404301649632246.10"))
    value = lines[place + 1].rpartition("[HEX DUMP]:")[2]
    assert value == "300C0201010201130A0102020103", "version 1, suite 19, hardware, level 3"


def test_openssl_reads_the_list_as_we_do(openssl):
    text = openssl("crl", "-in", "crl.pem", "-noout", "-text", "-CAfile", "root.pem")
    assert "verify OK" in text.stderr
    assert "Version 2 (0x1)" in text.stdout
    assert text.stdout.count("Serial Number:") == 3
    assert (text.stdout.count("Superseded"), text.stdout.count("Key Compromise")) == (1, 2)
    assert "X509v3 CRL Number" in text.stdout


def test_openssl_reads_the_root_as_we_do(openssl):
    text = openssl("x509", "-in", "root.pem", "-noout", "-text").stdout
    for line in ("Public-Key: (4096 bit)", "CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "URI:spiffe://tpmbus.test"):
        assert line in text, line
    openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", "root.pem", "root.pem")


# ---- TLS -------------------------------------------------------------------------------------------------------------------------


def context(made, side, name, *, crl=True):
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(made / "root.pem")
    if crl:
        context.load_verify_locations(made / "crl.pem")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(made / f"{name}.pem")
    return context


def handshake(made, *, server, client, server_checks=True, client_checks=True, host=HOST):
    """What the server says of the client, and the client of the server: the peer's certificate, or why there is none."""
    ours, theirs = socket.socketpair()
    answers = {}

    def serve():
        try:
            with context(made, ssl.PROTOCOL_TLS_SERVER, server, crl=server_checks).wrap_socket(theirs, server_side=True) as link:
                answers["client"] = link.getpeercert(binary_form=True)
                link.sendall(link.recv(1))
        except (ssl.SSLError, OSError) as error:
            answers["client"] = error
        finally:
            theirs.close()

    ours.settimeout(20)
    theirs.settimeout(20)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context(made, ssl.PROTOCOL_TLS_CLIENT, client, crl=client_checks).wrap_socket(ours, server_hostname=host) as link:
            answers["server"] = link.getpeercert(binary_form=True)
            link.sendall(b"1")
            answers["echo"] = link.recv(1)
    except (ssl.SSLError, OSError) as error:
        answers["error"] = error
    finally:
        ours.close()
        thread.join(30)
    return answers


@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
def test_both_ends_of_a_tls_link_take_each_others_certificate(made, host):
    answers = handshake(made, server="HUB", client="ALPHA", host=host)
    assert answers["client"] == (made / "tls ALPHA.der").read_bytes()
    assert answers["server"] == (made / "tls HUB.der").read_bytes()
    assert answers["echo"] == b"1"


def test_a_revoked_client_is_refused_once_the_list_is_loaded(made):
    assert handshake(made, server="HUB", client="REVOKED", server_checks=False)["echo"] == b"1"
    refused = handshake(made, server="HUB", client="REVOKED")["client"]
    assert isinstance(refused, ssl.SSLCertVerificationError)
    assert refused.verify_code == 23, "certificate revoked"


def test_a_revoked_server_is_refused_once_the_list_is_loaded(made):
    assert handshake(made, server="REVOKED", client="ALPHA", client_checks=False)["echo"] == b"1"
    refused = handshake(made, server="REVOKED", client="ALPHA")["error"]
    assert isinstance(refused, ssl.SSLCertVerificationError)
    assert refused.verify_code == 23, "certificate revoked"


def test_a_server_of_another_name_is_refused(made):
    refused = handshake(made, server="HUB", client="ALPHA", host="other.example")["error"]
    assert isinstance(refused, ssl.SSLCertVerificationError)
    assert refused.verify_code == 62, "hostname mismatch"
