//! Our own identity: the chain that all may see, and the private halves of
//! verify and static.
//!
//! The CA's private half, `private/root.pem`, is not needed to run, and is
//! never read here: it may be kept elsewhere.

use crate::cert::{Cert, Purpose};
use crate::{Chain, Error, Result};
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private};
use spool::atomic::Disk;
use spool::fs::Fs;
use spool::home::Home;
use spool::look::CERT_MAX;
use spool::name::Username;
use spool::url;
use zeroize::Zeroizing;

/// Who we are, with the keys to prove it.
#[derive(Clone)]
pub struct Identity {
    chain: Chain,
    sign: PKey<Private>,
    derive: PKey<Private>,
}

impl Identity {
    /// Makes a new identity in memory, and the private half of its CA.
    pub fn generate() -> Result<(Identity, PKey<Private>)> {
        let (root, sign, derive) = (PKey::generate_ed25519()?, PKey::generate_ed25519()?, PKey::generate_x25519()?);
        let ca = Cert::issue(&Purpose::Ca, &root, None, &root)?;
        let verify = Cert::issue(&Purpose::Verify, &sign, Some(&ca), &root)?;
        let peer = Cert::issue(&Purpose::Static, &derive, Some(&verify), &sign)?;
        Ok((Identity { chain: Chain::new(ca, verify, peer)?, sign, derive }, root))
    }

    /// Reads our identity, and refuses one whose parts do not belong together.
    pub fn load(home: &Home) -> Result<Identity> {
        home.username()?;
        Identity::read(&Disk::open(&home.config)?)
    }

    /// Reads the identity in a configuration directory.
    pub(crate) fn read(config: &dyn Fs) -> Result<Identity> {
        let chain = Chain::read(config, "certs")?;
        check_username(config, "certs", chain.username())?;
        let key = |path: &str, id: Id, cert: url::Cert| {
            let pem = Zeroizing::new(config.read(path, CERT_MAX)?);
            let key = PKey::private_key_from_pem(&pem).ok().filter(|key| key.id() == id);
            let key = key.ok_or_else(|| Error::Ours(format!("{path}: not a private key of the right type")))?;
            if !key.public_eq(chain.cert(cert).key()) {
                return Err(Error::Ours(format!("{path} is not the key of certs/{}", cert.file())));
            }
            Ok(key)
        };
        let sign = key("private/sign.pem", Id::ED25519, url::Cert::Verify)?;
        let derive = key("private/derive.pem", Id::X25519, url::Cert::Peer)?;
        Ok(Identity { chain, sign, derive })
    }

    /// Who we are.
    pub fn username(&self) -> &Username {
        self.chain.username()
    }

    /// What all may see.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The private half of our static key.
    pub(crate) fn derive(&self) -> &PKeyRef<Private> {
        &self.derive
    }

    /// The private halves as PKCS8 PEM: sign, derive.
    pub(crate) fn private_pems(&self) -> Result<[Zeroizing<Vec<u8>>; 2]> {
        Ok([private_pem(&self.sign)?, private_pem(&self.derive)?])
    }

    /// Certifies a DH key.
    pub(crate) fn certify<K: HasPublic>(&self, purpose: &Purpose, key: &PKeyRef<K>) -> Result<Cert> {
        Cert::issue(purpose, key, Some(self.chain.cert(url::Cert::Verify)), &self.sign)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Identity({})", self.username())
    }
}

/// A private key as PKCS8 PEM; erased when dropped.
pub(crate) fn private_pem(key: &PKeyRef<Private>) -> Result<Zeroizing<Vec<u8>>> {
    Ok(Zeroizing::new(key.private_key_to_pem_pkcs8()?))
}

/// Does the file `username` in `dir` name the owner of the certificates there?
pub(crate) fn check_username(config: &dyn Fs, dir: &str, username: &Username) -> Result<()> {
    let path = format!("{dir}/username");
    let text = config.read(&path, 256)?;
    match text.trim_ascii() == username.as_str().as_bytes() {
        true => Ok(()),
        false => Err(Error::Ours(format!("{path} is not the username of {dir}/ca.pem, which is {username}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create;

    fn home(directory: &tempfile::TempDir, name: &str) -> Home {
        let base = directory.path().join(name);
        let home = Home { config: base.join("config"), spool: base.join("spool") };
        create(&home, &name.parse().unwrap(), &[], &[]).unwrap();
        home
    }

    #[test]
    fn files_of_another_identity_are_refused_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (home(&directory, "a"), home(&directory, "b"));
        let loaded = Identity::load(&a).unwrap();
        assert_eq!(loaded.username(), &a.username().unwrap());
        let files = ["certs/ca.pem", "certs/verify.pem", "certs/peer.pem", "certs/username"];
        for file in files.into_iter().chain(["private/sign.pem", "private/derive.pem"]) {
            let ours = std::fs::read(a.config.join(file)).unwrap();
            std::fs::write(a.config.join(file), std::fs::read(b.config.join(file)).unwrap()).unwrap();
            assert!(matches!(Identity::load(&a), Err(Error::Ours(_))), "{file}");
            std::fs::write(a.config.join(file), b"").unwrap();
            assert!(Identity::load(&a).is_err(), "empty {file}");
            std::fs::write(a.config.join(file), ours).unwrap();
            Identity::load(&a).unwrap();
        }
        std::fs::remove_file(a.config.join("private/root.pem")).unwrap();
        Identity::load(&a).expect("the root key is not needed to run");
    }

    #[test]
    fn without_an_identity_the_error_says_how_to_make_one() {
        let home = Home { config: "/nowhere/config".into(), spool: "/nowhere/spool".into() };
        assert!(Identity::load(&home).unwrap_err().to_string().contains("netplumb keygen"));
    }
}
