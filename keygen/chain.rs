//! The three certificates that make a peer: CA, verify, static.
//!
//! A [`Chain`] has been verified from end to end: the CA signed itself and the
//! verify certificate, that signed the static one, and each is for its purpose.
//! The username is computed from the CA, never taken from a name.

use crate::cert::{Cert, Purpose};
use crate::{Error, Result};
use openssl::pkey::{PKeyRef, Public};
use spool::fs::Fs;
use spool::look::CERT_MAX;
use spool::name::{PeerName, Username};
use spool::url;

/// A peer's certificates, which belong together.
#[derive(Clone, Debug)]
pub struct Chain {
    username: Username,
    ca: Cert,
    verify: Cert,
    peer: Cert,
}

impl Chain {
    /// Verifies three certificates against each other. Errors are the peer's.
    pub fn new(ca: Cert, verify: Cert, peer: Cert) -> Result<Chain> {
        for (cert, purpose) in [(&ca, Purpose::Ca), (&verify, Purpose::Verify), (&peer, Purpose::Static)] {
            if *cert.purpose() != purpose {
                return Err(Error::Peer(format!(
                    "the certificate `{}` stands where `{purpose}` should",
                    cert.purpose()
                )));
            }
        }
        ca.check_issuer(&ca)?;
        verify.check_issuer(&ca)?;
        peer.check_issuer(&verify)?;
        Ok(Chain { username: Username::of_ca(&ca.der()?), ca, verify, peer })
    }

    /// Reads a chain from the texts of its certificates, in the order of [`url::Cert::ALL`].
    pub fn of_pems<T: AsRef<[u8]>>(pems: &[T; 3]) -> Result<Chain> {
        let [ca, verify, peer] = pems;
        Chain::new(Cert::of_pem(ca.as_ref())?, Cert::of_pem(verify.as_ref())?, Cert::of_pem(peer.as_ref())?)
    }

    /// Reads the chain in a directory of the configuration: `certs`, or `peers/<name>`.
    /// What is wrong with it is ours to mend.
    pub fn read(config: &dyn Fs, dir: &str) -> Result<Chain> {
        let read = |cert: url::Cert| config.read(&format!("{dir}/{}", cert.file()), CERT_MAX);
        let [ca, verify, peer] = url::Cert::ALL.map(read);
        Chain::of_pems(&[ca?, verify?, peer?]).map_err(|error| error.ours(dir))
    }

    /// Reads the chain of a peer that has been added, and checks that it still
    /// is who it was.
    pub fn load(home: &spool::home::Home, name: &PeerName) -> Result<Chain> {
        let config = spool::atomic::Disk::open(&home.config)?;
        let dir = format!("peers/{name}");
        let chain = Chain::read(&config, &dir)?;
        crate::identity::check_username(&config, &dir, &chain.username)?;
        Ok(chain)
    }

    /// Who this is.
    pub fn username(&self) -> &Username {
        &self.username
    }

    /// One of the three.
    pub fn cert(&self, which: url::Cert) -> &Cert {
        match which {
            url::Cert::Ca => &self.ca,
            url::Cert::Verify => &self.verify,
            url::Cert::Peer => &self.peer,
        }
    }

    /// The long-lived X25519 key.
    pub fn static_key(&self) -> &PKeyRef<Public> {
        self.peer.key()
    }

    /// Did this peer certify that key?
    pub fn check(&self, cert: &Cert) -> Result<()> {
        cert.check_issuer(&self.verify)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn parts(chain: &Chain) -> [Cert; 3] {
        url::Cert::ALL.map(|which| chain.cert(which).clone())
    }

    #[test]
    fn every_swap_is_refused() {
        let (a, b) = (Identity::generate().unwrap().0, Identity::generate().unwrap().0);
        let (ours, theirs) = (parts(a.chain()), parts(b.chain()));
        for choice in 0..8 {
            let pick = |n: usize| if choice >> n & 1 == 0 { &ours[n] } else { &theirs[n] };
            let chain = Chain::new(pick(0).clone(), pick(1).clone(), pick(2).clone());
            assert_eq!(chain.is_ok(), choice == 0 || choice == 7, "choice {choice:03b}");
        }
        for [x, y, z] in [[0, 2, 1], [1, 0, 2], [2, 1, 0], [0, 0, 2], [0, 1, 1], [1, 1, 2]] {
            let chain = Chain::new(ours[x].clone(), ours[y].clone(), ours[z].clone());
            assert!(matches!(chain, Err(Error::Peer(_))), "{x} {y} {z}");
        }
    }

    #[test]
    fn a_one_time_key_is_no_static_key() {
        let (a, _) = Identity::generate().unwrap();
        let onetime = crate::OneTime::make(&a).unwrap();
        let [ca, verify, _] = parts(a.chain());
        assert!(Chain::new(ca, verify, Cert::of_pem(&onetime.cert_pem).unwrap()).is_err());
    }

    #[test]
    fn another_ca_with_the_same_key_is_another_peer() {
        let (a, root) = Identity::generate().unwrap();
        let [ca, verify, peer] = parts(a.chain());
        let twin = Cert::issue(&Purpose::Ca, ca.key(), None, &root).unwrap();
        let chain = Chain::new(twin, verify, peer).unwrap();
        assert_ne!(chain.username(), a.username());
    }

    #[test]
    fn a_ca_that_did_not_sign_itself_is_refused() {
        let (a, _) = Identity::generate().unwrap();
        let (_, other_root) = Identity::generate().unwrap();
        let [ca, verify, peer] = parts(a.chain());
        let unsigned = Cert::issue(&Purpose::Ca, ca.key(), None, &other_root).unwrap();
        assert!(matches!(Chain::new(unsigned, verify, peer), Err(Error::Peer(_))));
    }
}
