//! Whose account commands run in, and what they find there: as after a login
//! through sshd, nothing of the keeper's own environment but its language,
//! time zone and `PATH`.

use crate::gluepot::Permitted;
use crate::guard::Command;
use spool::name::MsgId;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What `PATH` is if the keeper has none.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The account that this process runs in.
#[derive(Debug, Clone)]
pub struct Account {
    /// The user's name.
    pub name: String,
    /// Where commands start.
    pub home: PathBuf,
    /// What runs them.
    pub shell: PathBuf,
}

impl Account {
    /// Asks the password database; a user without an entry has a number for a
    /// name, and `/bin/sh`.
    pub fn ours() -> Account {
        let uid = nix::unistd::getuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let shell = |shell: PathBuf| if shell.as_os_str().is_empty() { PathBuf::from("/bin/sh") } else { shell };
        match user {
            Some(user) => Account { name: user.name, home: user.dir, shell: shell(user.shell) },
            None => Account { name: uid.to_string(), home, shell: shell(PathBuf::new()) },
        }
    }

    /// What the guard is to start: the user's shell with the permitted text.
    pub fn command(&self, permitted: &Permitted, msgid: MsgId, peer: &str) -> Result<Command, crate::Error> {
        let shell = self.shell.as_os_str();
        let name = self.shell.file_name().unwrap_or(shell);
        let argv = [name.as_bytes(), b"-c", &permitted.text].map(text).into_iter().collect::<Result<_, _>>()?;
        let pairs = self.environment(permitted, msgid, peer).into_iter();
        let env = pairs.map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat()));
        Ok(Command {
            program: text(shell.as_bytes())?,
            argv,
            env: env.collect::<Result<_, _>>()?,
            dir: text(self.home.as_os_str().as_bytes())?,
        })
    }

    fn environment(&self, permitted: &Permitted, msgid: MsgId, peer: &str) -> BTreeMap<OsString, OsString> {
        let language = |name: &OsStr| name == "LANG" || name == "TZ" || name.as_bytes().starts_with(b"LC_");
        let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().filter(|(name, _)| language(name)).collect();
        let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| PATH.into());
        env.insert("PATH".into(), path);
        env.insert("HOME".into(), self.home.clone().into());
        env.insert("SHELL".into(), self.shell.clone().into());
        for name in ["USER", "LOGNAME"] {
            env.insert(name.into(), self.name.clone().into());
        }
        for (name, value) in &permitted.env {
            env.insert(name.into(), OsString::from_vec(value.clone()));
        }
        // Last: what we say about the job, nobody else does.
        env.insert("PLUMB_JOB".into(), msgid.to_string().into());
        env.insert("PLUMB_PEER".into(), peer.into());
        env.insert("PLUMB_USER".into(), self.name.clone().into());
        env
    }
}

fn text(bytes: &[u8]) -> Result<CString, crate::Error> {
    CString::new(bytes).map_err(|_| crate::Error::Peer("a NUL byte in the command".into()))
}
