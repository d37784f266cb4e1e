//! One certificate: what its key is for, and who says so.
//!
//! The purpose stands in the subject: `CN=ca`, `CN=verify`, `CN=static`,
//! `CN=onetime <keyid>`, `CN=message <msgid>, OU=<recipient>`. (X.520 ends a
//! common name at 64 characters, so the recipient has an attribute of its own.)
//! The issuer is `CN=ca` for a CA or verify certificate and `CN=verify` for a DH
//! certificate. Validity is 2000 to 9999 and is not looked at: no clock decides
//! here (doc/PROTOCOL.md#identity).
//!
//! A [`Cert`] has the form of its purpose: key type, extensions, names. Whether
//! its signature is right, [`Cert::check_issuer`] says.

use crate::{Error, Result};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPrivate, HasPublic, Id, PKey, PKeyRef, Public};
use openssl::x509::extension::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use openssl::x509::{X509, X509KeyUsage, X509Name, X509NameRef, X509Ref};
use spool::look::CERT_MAX;
use spool::name::{KeyId, MsgId, Username};
use std::fmt;

/// What the key of a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Signs the verify certificate; its hash is the identity.
    Ca,
    /// Signs DH certificates.
    Verify,
    /// Agrees on the keys of a pair; long-lived.
    Static,
    /// Agrees on the key of one message, made ahead by its recipient.
    OneTime(KeyId),
    /// Agrees on the key of one sealing of one message, made by its sender.
    Message(MsgId, Username),
}

impl Purpose {
    /// The subject: an attribute's kind and text, in order.
    fn subject(&self) -> Vec<(Nid, String)> {
        let common = |name: &str| (Nid::COMMONNAME, name.to_string());
        match self {
            Purpose::Ca => vec![common("ca")],
            Purpose::Verify => vec![common("verify")],
            Purpose::Static => vec![common("static")],
            Purpose::OneTime(keyid) => vec![common(&format!("onetime {keyid}"))],
            Purpose::Message(msgid, recipient) => {
                vec![common(&format!("message {msgid}")), (Nid::ORGANIZATIONALUNITNAME, recipient.to_string())]
            }
        }
    }

    fn of_subject(subject: &[(Nid, String)]) -> Option<Purpose> {
        let [(Nid::COMMONNAME, common), rest @ ..] = subject else { return None };
        let purpose = match (common.split_once(' '), rest) {
            (None, []) => match common.as_str() {
                "ca" => Purpose::Ca,
                "verify" => Purpose::Verify,
                "static" => Purpose::Static,
                _ => return None,
            },
            (Some(("onetime", keyid)), []) => Purpose::OneTime(keyid.parse().ok()?),
            (Some(("message", msgid)), [(Nid::ORGANIZATIONALUNITNAME, recipient)]) => {
                Purpose::Message(msgid.parse().ok()?, recipient.parse().ok()?)
            }
            _ => return None,
        };
        Some(purpose)
    }

    /// The purpose of the certificate that signs one of this purpose.
    fn issuer(&self) -> Purpose {
        match self {
            Purpose::Ca | Purpose::Verify => Purpose::Ca,
            Purpose::Static | Purpose::OneTime(_) | Purpose::Message(..) => Purpose::Verify,
        }
    }

    fn key_type(&self) -> Id {
        match self {
            Purpose::Ca | Purpose::Verify => Id::ED25519,
            Purpose::Static | Purpose::OneTime(_) | Purpose::Message(..) => Id::X25519,
        }
    }

    /// How many issuers may stand below; `None` for what issues nothing.
    fn path_length(&self) -> Option<u32> {
        match self {
            Purpose::Ca => Some(1),
            Purpose::Verify => Some(0),
            Purpose::Static | Purpose::OneTime(_) | Purpose::Message(..) => None,
        }
    }

    fn key_usage(&self) -> X509KeyUsage {
        match self.path_length() {
            Some(_) => X509KeyUsage::KEY_CERT_SIGN,
            None => X509KeyUsage::KEY_AGREEMENT,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Purpose::Message(msgid, recipient) => write!(f, "message {msgid} {recipient}"),
            short => f.write_str(&short.subject()[0].1),
        }
    }
}

/// A certificate that has the form of its purpose.
#[derive(Clone)]
pub struct Cert {
    x509: X509,
    purpose: Purpose,
    key: PKey<Public>,
}

impl Cert {
    /// Reads a certificate from PEM as this crate writes it; line ends may be
    /// CRLF. Errors are the peer's.
    pub fn of_pem(pem: &[u8]) -> Result<Cert> {
        if pem.len() > CERT_MAX {
            return Err(Error::Peer(format!("a certificate of more than {CERT_MAX} bytes")));
        }
        let x509 = X509::from_pem(pem).map_err(|_| Error::Peer("not a certificate in PEM".into()))?;
        let cert = Cert::checked(x509)?;
        let bare = |text: &[u8]| text.trim_ascii().iter().copied().filter(|&b| b != b'\r').collect::<Vec<u8>>();
        if bare(pem) != bare(&cert.pem()?) {
            return Err(Error::Peer("a certificate with something around it".into()));
        }
        Ok(cert)
    }

    /// Reads a certificate from DER with nothing after it. Errors are the peer's.
    pub fn of_der(der: &[u8]) -> Result<Cert> {
        if der.len() > CERT_MAX {
            return Err(Error::Peer(format!("a certificate of more than {CERT_MAX} bytes")));
        }
        let x509 = X509::from_der(der).map_err(|_| Error::Peer("not a certificate in DER".into()))?;
        let cert = Cert::checked(x509)?;
        if cert.der()? != der {
            return Err(Error::Peer("a certificate with something after it".into()));
        }
        Ok(cert)
    }

    fn checked(x509: X509) -> Result<Cert> {
        let subject = attributes(x509.subject_name());
        let bad = |what: &str| Error::Peer(format!("the certificate of {subject:?} {what}"));
        let purpose = Purpose::of_subject(&subject).ok_or_else(|| bad("has no purpose that we know"))?;
        let bad = |what: &str| Error::Peer(format!("the certificate `{purpose}` {what}"));
        let key = x509.public_key().map_err(|_| bad("has a key that cannot be read"))?;
        if key.id() != purpose.key_type() {
            return Err(bad("has a key of the wrong type"));
        }
        if attributes(x509.issuer_name()) != purpose.issuer().subject() {
            return Err(bad("names the wrong issuer"));
        }
        let as_written = x509.version() == 2
            && x509.pathlen() == purpose.path_length()
            && x509.key_usage() == Some(purpose.key_usage());
        if !as_written {
            return Err(bad("does not say what its key may be used for, or says something else"));
        }
        Ok(Cert { x509, purpose, key })
    }

    /// Was this signed by `issuer`, and may `issuer` sign such a one?
    pub fn check_issuer(&self, issuer: &Cert) -> Result<()> {
        let fits = issuer.purpose == self.purpose.issuer() && self.x509.verify(&issuer.key).unwrap_or(false);
        if fits {
            Ok(())
        } else {
            Err(Error::Peer(format!("the certificate `{}` was not issued by this `{}`", self.purpose, issuer.purpose)))
        }
    }

    /// Makes a certificate for `key`, signed with `sign`; without `issuer`, by itself.
    pub(crate) fn issue<K: HasPublic, S: HasPrivate>(
        purpose: &Purpose,
        key: &PKeyRef<K>,
        issuer: Option<&Cert>,
        sign: &PKeyRef<S>,
    ) -> Result<Cert> {
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        // Positive and of a fixed length.
        let mut serial: [u8; 16] = rand::random();
        serial[0] = serial[0] & 0x3f | 0x40;
        let serial = BigNum::from_slice(&serial)?.to_asn1_integer()?;
        builder.set_serial_number(&serial)?;
        let (not_before, not_after) =
            (Asn1Time::from_str_x509("20000101000000Z")?, Asn1Time::from_str_x509("99991231235959Z")?);
        builder.set_not_before(&not_before)?;
        builder.set_not_after(&not_after)?;
        let (subject, issuer_name) = (name(purpose)?, name(&purpose.issuer())?);
        builder.set_subject_name(&subject)?;
        builder.set_issuer_name(&issuer_name)?;
        builder.set_pubkey(key)?;
        let issuer: Option<&X509Ref> = issuer.map(|issuer| &*issuer.x509);
        let extensions = {
            let context = builder.x509v3_context(issuer, None);
            let mut usage = KeyUsage::new();
            let mut extensions = Vec::new();
            if let Some(length) = purpose.path_length() {
                extensions.push(BasicConstraints::new().critical().ca().pathlen(length).build()?);
                usage.key_cert_sign();
            } else {
                usage.key_agreement();
            }
            extensions.push(usage.critical().build()?);
            extensions.push(SubjectKeyIdentifier::new().build(&context)?);
            if issuer.is_some() {
                extensions.push(AuthorityKeyIdentifier::new().keyid(true).build(&context)?);
            }
            extensions
        };
        for extension in &extensions {
            builder.append_extension2(extension)?;
        }
        // Ed25519 hashes by itself.
        builder.sign(sign, MessageDigest::null())?;
        let x509 = builder.build();
        let key = x509.public_key()?;
        Ok(Cert { x509, purpose: purpose.clone(), key })
    }

    /// What its key is for.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The public key.
    pub fn key(&self) -> &PKeyRef<Public> {
        &self.key
    }

    /// The public key's 32 bytes.
    pub fn raw_key(&self) -> Result<[u8; 32]> {
        self.key.raw_public_key()?.try_into().map_err(|_| Error::Ours("a public key is not 32 bytes".into()))
    }

    /// The text form.
    pub fn pem(&self) -> Result<Vec<u8>> {
        Ok(self.x509.to_pem()?)
    }

    /// The binary form.
    pub fn der(&self) -> Result<Vec<u8>> {
        Ok(self.x509.to_der()?)
    }
}

impl fmt::Debug for Cert {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Cert({})", self.purpose)
    }
}

fn name(purpose: &Purpose) -> Result<X509Name> {
    let mut name = X509Name::builder()?;
    for (kind, text) in purpose.subject() {
        name.append_entry_by_nid(kind, &text)?;
    }
    Ok(name.build())
}

fn attributes(name: &X509NameRef) -> Vec<(Nid, String)> {
    let text = |entry: &openssl::x509::X509NameEntryRef| match std::str::from_utf8(entry.data().as_slice()) {
        Ok(text) => text.to_string(),
        Err(_) => String::from("(not text)"),
    };
    name.entries().map(|entry| (entry.object().nid(), text(entry))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::pkey::Private;
    use openssl::x509::X509Extension;

    fn keys() -> (PKey<Private>, PKey<Private>) {
        (PKey::generate_ed25519().unwrap(), PKey::generate_x25519().unwrap())
    }

    #[test]
    fn every_purpose_reads_as_it_was_written() {
        let (sign, dh) = keys();
        let recipient = Username::of_ca(b"recipient");
        let ca = Cert::issue(&Purpose::Ca, &sign, None, &sign).unwrap();
        let verify = Cert::issue(&Purpose::Verify, &sign, Some(&ca), &sign).unwrap();
        let purposes = [Purpose::Static, Purpose::OneTime(KeyId([7; 16])), Purpose::Message(MsgId([9; 20]), recipient)];
        for purpose in purposes {
            let cert = Cert::issue(&purpose, &dh, Some(&verify), &sign).unwrap();
            let pem = cert.pem().unwrap();
            assert!(pem.len() <= CERT_MAX);
            let read = Cert::of_pem(&pem).unwrap();
            assert_eq!(read.purpose(), &purpose);
            assert_eq!(read.raw_key().unwrap().as_slice(), dh.raw_public_key().unwrap());
            read.check_issuer(&verify).unwrap();
            assert!(read.check_issuer(&ca).is_err(), "the CA signs no DH certificate, even with the same key");
            assert_eq!(Cert::of_der(&cert.der().unwrap()).unwrap().purpose(), &purpose);
        }
        verify.check_issuer(&ca).unwrap();
        ca.check_issuer(&ca).unwrap();
    }

    #[test]
    fn a_key_of_the_wrong_type_is_refused() {
        let (sign, dh) = keys();
        let ca = Cert::issue(&Purpose::Ca, &sign, None, &sign).unwrap();
        let verify = Cert::issue(&Purpose::Verify, &sign, Some(&ca), &sign).unwrap();
        for (purpose, key) in [(Purpose::Static, &sign), (Purpose::Verify, &dh)] {
            let cert = Cert::issue(&purpose, key, Some(&verify), &sign).unwrap();
            assert!(Cert::of_der(&cert.der().unwrap()).is_err(), "{purpose}");
        }
    }

    #[test]
    fn any_altered_bit_is_refused() {
        let (sign, dh) = keys();
        let ca = Cert::issue(&Purpose::Ca, &sign, None, &sign).unwrap();
        let verify = Cert::issue(&Purpose::Verify, &sign, Some(&ca), &sign).unwrap();
        let der = Cert::issue(&Purpose::Static, &dh, Some(&verify), &sign).unwrap().der().unwrap();
        for at in 0..der.len() {
            let mut bad = der.clone();
            bad[at] ^= 1;
            let believed = Cert::of_der(&bad).and_then(|cert| cert.check_issuer(&verify));
            assert!(believed.is_err(), "byte {at}");
        }
        assert!(Cert::of_der(&[der.as_slice(), b"x"].concat()).is_err());
        assert!(Cert::of_der(&der[..der.len() - 1]).is_err());
    }

    #[test]
    fn text_around_a_certificate_is_refused_and_crlf_is_not() {
        let (sign, _) = keys();
        let pem = Cert::issue(&Purpose::Ca, &sign, None, &sign).unwrap().pem().unwrap();
        let text = String::from_utf8(pem).unwrap();
        Cert::of_pem(text.replace('\n', "\r\n").as_bytes()).unwrap();
        assert!(Cert::of_pem(format!("hello\n{text}").as_bytes()).is_err());
        assert!(Cert::of_pem(format!("{text}{text}").as_bytes()).is_err());
        assert!(Cert::of_pem(&vec![b'x'; CERT_MAX + 1]).is_err());
    }

    #[test]
    fn names_that_we_would_not_write_have_no_purpose() {
        let entry = |text: &str| (Nid::COMMONNAME, text.to_string());
        for subject in [
            vec![],
            vec![entry("root")],
            vec![entry("ca"), entry("ca")],
            vec![entry("onetime")],
            vec![entry("onetime 07")],
            vec![entry(&format!("message {}", MsgId([1; 20])))],
            vec![(Nid::ORGANIZATIONALUNITNAME, "ca".to_string())],
        ] {
            assert_eq!(Purpose::of_subject(&subject), None, "{subject:?}");
        }
    }

    /// A static certificate in DER, made by hand.
    fn odd(keys: &(PKey<Private>, PKey<Private>), issuer: &Purpose, extensions: &[X509Extension]) -> Vec<u8> {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&name(&Purpose::Static).unwrap()).unwrap();
        builder.set_issuer_name(&name(issuer).unwrap()).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(7).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(8).unwrap()).unwrap();
        builder.set_pubkey(&keys.1).unwrap();
        extensions.iter().for_each(|extension| builder.append_extension2(extension).unwrap());
        builder.sign(&keys.0, MessageDigest::null()).unwrap();
        builder.build().to_der().unwrap()
    }

    #[test]
    fn a_certificate_must_say_what_its_key_is_for_and_dates_do_not_matter() {
        let keys = keys();
        let agreement = || KeyUsage::new().critical().key_agreement().build().unwrap();
        let signing = || KeyUsage::new().critical().key_agreement().key_cert_sign().build().unwrap();
        let issuing = || BasicConstraints::new().critical().ca().pathlen(0).build().unwrap();
        let of_der = |issuer, extensions: &[X509Extension]| Cert::of_der(&odd(&keys, &issuer, extensions));
        of_der(Purpose::Verify, &[agreement()]).expect("valid in a week from now on");
        assert!(of_der(Purpose::Ca, &[agreement()]).is_err(), "another issuer");
        assert!(of_der(Purpose::Static, &[agreement()]).is_err(), "itself as issuer");
        assert!(of_der(Purpose::Verify, &[]).is_err(), "no usage");
        assert!(of_der(Purpose::Verify, &[signing()]).is_err(), "one usage too many");
        assert!(of_der(Purpose::Verify, &[agreement(), issuing()]).is_err(), "a CA");
    }
}
