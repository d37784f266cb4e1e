//! Certificates as somebody sees them who only looks: what stands in them, unchecked.

use openssl::pkey::Id;
use openssl::x509::{X509, X509NameRef};
use spool::name::{Digest, Username};

/// What a certificate says.
pub struct Seen {
    /// Its subject's parts.
    pub subject: String,
    /// Its subject's common name: the role, and for what.
    pub common_name: Option<String>,
    /// Its issuer's parts.
    pub issuer: String,
    /// What it is for, by its common name.
    pub role: String,
    /// The kind of its key.
    pub key: &'static str,
    /// SHA-256 of its DER.
    pub digest: Digest,
    /// Whose identity it is, if it is a CA's.
    pub username: Option<Username>,
}

/// Reads all certificates of a PEM text; none if one cannot be read.
pub fn read(pem: &[u8]) -> Vec<Seen> {
    X509::stack_from_pem(pem).unwrap_or_default().iter().filter_map(see).collect()
}

/// Reads one certificate.
pub fn of_der(der: &[u8]) -> Option<Seen> {
    see(&X509::from_der(der).ok()?)
}

fn see(cert: &X509) -> Option<Seen> {
    let (der, subject) = (cert.to_der().ok()?, parts(cert.subject_name()));
    let common_name = cert.subject_name().entries_by_nid(openssl::nid::Nid::COMMONNAME).next();
    let common_name = common_name.and_then(|entry| entry.data().to_string().ok());
    let role = common_name.as_deref().and_then(|name| name.split(' ').next()).unwrap_or("?").to_string();
    let username = (role == "ca").then(|| Username::of_ca(&der));
    let key = match cert.public_key().map(|key| key.id()) {
        Ok(Id::ED25519) => "Ed25519",
        Ok(Id::X25519) => "X25519",
        Ok(_) => "of another kind",
        Err(_) => "unreadable",
    };
    Some(Seen {
        subject,
        common_name,
        issuer: parts(cert.issuer_name()),
        role,
        key,
        digest: Digest::of(&der),
        username,
    })
}

fn parts(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let kind = entry.object().nid().short_name().unwrap_or("?");
        format!("{kind}={}", entry.data().to_string().unwrap_or_default())
    });
    parts.collect::<Vec<_>>().join(", ")
}
