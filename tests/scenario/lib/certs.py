"""Certificates made at run time: a CA for a folder, and leaves."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(folder, name, key, cert):
    path = Path(folder) / f"{name}.key"
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    (Path(folder) / f"{name}.crt").write_bytes(
        cert.public_bytes(serialization.Encoding.PEM))


def _build(subject, issuer, key, first, last):
    return (x509.CertificateBuilder().subject_name(_name(subject))
            .issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(first).not_valid_after(last))


def ca(folder, name="ca"):
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.utcnow()
    usage = x509.KeyUsage(False, False, False, False, False, True, False,
                          False, False)
    cert = (_build("test CA", _name("test CA"), key, now - DAY, now + 30 * DAY)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(usage, True).sign(key, hashes.SHA256()))
    _write(folder, name, key, cert)


def leaf(folder, name, cn, issuer="ca", days=10, addresses=()):
    """NAME.crt and NAME.key; days < 0: expired since then."""
    import ipaddress

    folder = Path(folder)
    ca_key = serialization.load_pem_private_key(
        (folder / f"{issuer}.key").read_bytes(), None)
    ca_cert = x509.load_pem_x509_certificate(
        (folder / f"{issuer}.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.utcnow()
    names = [x509.DNSName(cn)]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
    usage = x509.KeyUsage(True, False, False, False, False, False, False,
                          False, False)
    cert = (_build(cn, ca_cert.subject, key, now - 60 * DAY, now + days * DAY)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH,
                 ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .sign(ca_key, hashes.SHA256()))
    _write(folder, name, key, cert)
