"""Keys and bundles as people make them: an EC key, and OpenSSF's own package to sign with it."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

BUNDLE = "model.sig"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """private: the path of its PEM. public: the PEM itself."""

    private: Path
    public: str

    def sign(self, folder: Path, form: hashing.Config | None = None) -> None:
        """What `model_signing sign key FOLDER --signature FOLDER/model.sig` does; form: how files are digested."""
        config = signing.Config().use_elliptic_key_signer(private_key=self.private)
        own = form or hashing.Config().set_ignored_paths(paths=[BUNDLE], ignore_git_paths=True)
        config.set_hashing_config(own).sign(folder, folder / BUNDLE)


def make_key(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> SigningKey:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private = folder / f"{name}.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(private, public.decode())
