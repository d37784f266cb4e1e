//! What the service cannot do even if somebody else's code runs in it.
//!
//! Landlock, where the kernel has it: certificates, peers and settings can be
//! read, the spool read and written, nothing else opened, nothing executed, no
//! port bound, nobody dialled. It binds the calling thread and those that it
//! starts afterwards, so it comes before the first thread and after the
//! sockets are bound. A kernel without it changes nothing but this.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use spool::home::Home;
use std::fmt;
use std::path::Path;

/// What the kernel enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confined {
    /// All that was asked for.
    Fully,
    /// The files; not all of the rest.
    Partly,
    /// Nothing, for this reason.
    Not(String),
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Confined::Fully => {
                f.write_str("landlock is enforced: certs, peers, spool; no keys, no execution, no dialling")
            }
            Confined::Partly => f.write_str("landlock is enforced in part: this kernel lacks some of it"),
            Confined::Not(why) => write!(f, "landlock is not enforced: {why}"),
        }
    }
}

/// Confines the calling thread, and all that it will start, to what the service needs.
pub fn confine(home: &Home) -> Confined {
    // Without `Refer` the kernel forbids every rename between directories: no key could be set aside.
    let hard = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if hard.handle_access(AccessFs::Refer).is_err() {
        return Confined::Not("the kernel has no Landlock of version 2 or later".into());
    }
    match enforce(home) {
        Ok(RulesetStatus::FullyEnforced) => Confined::Fully,
        Ok(RulesetStatus::PartiallyEnforced) => Confined::Partly,
        Ok(RulesetStatus::NotEnforced) => Confined::Not("the kernel does not support it".into()),
        Err(error) => Confined::Not(error.to_string()),
    }
}

fn enforce(home: &Home) -> Result<RulesetStatus, RulesetError> {
    let abi = ABI::V6;
    let look = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let work =
        look | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer});
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    for (path, access) in [
        (home.config.join("certs"), look),
        (home.config.join("peers"), look),
        (home.config.join("netplumb.toml"), AccessFs::ReadFile.into()),
        (home.spool.clone(), work),
    ] {
        ruleset = allow(ruleset, &path, access)?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Allows access below a path; one that is not there needs none.
fn allow(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => ruleset.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(ruleset),
    }
}
