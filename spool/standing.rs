//! How a job stands for whoever asks for it by its id.
//!
//! The one place that decides what is said of a job that is not here, that is
//! lost, or whose end nobody takes: `plumb -attach` and the verbs of `netplumb`
//! ask here, so one situation has one sentence and one status
//! (doc/SPOOL.md#lost-jobs). Reading only.

use crate::facts::Facts;
use crate::fs::{self, Fs};
use crate::layout::{ALONG, DETACHED, Owner, PLUMB, Place};
use crate::look;
use crate::name::{MsgId, Role};
use crate::outcome::Outcome;
use crate::phase::Mark;
use std::collections::BTreeSet;
use std::fmt;

/// Directories beside the three places in which an id can have left something.
pub const ASIDE: [&str; 3] = ["running", "hold", "notices"];
/// Why a job whose `peer` file cannot be believed is lost.
const NOBODYS: &str = "its `peer` file is missing or damaged, so nobody knows whose job it was";
/// Why the output of a job of ours cannot be read.
pub const SECRET_LOST: &str = "its `key` is missing or damaged, so nothing that it said can be read";
/// The sentence about an id of which nothing is here.
pub const NOWHERE: &str = "it is not here: never made, or its end was taken, or it was cancelled and forgotten";
/// Ids that are named where several begin alike.
const NAMED: usize = 4;

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its directory is here, and says whose it is.
    Job(Owner),
    /// A peer's message is on its way in, and not delivered yet.
    Arriving,
    /// The job was here and is lost, for this reason: its outcome cannot be known any more.
    Lost(String),
    /// No job of this id is here.
    Nowhere,
}

/// Looks where a job stands. A file that cannot be read is an error, never a loss.
pub fn of(fs: &dyn Fs, msgid: MsgId) -> fs::Result<Standing> {
    let dir = Place::Jobs.dir(msgid);
    if fs.is_there(&dir)? {
        match Owner::read(fs, &dir)? {
            Some(owner) => return Ok(Standing::Job(owner)),
            // The directory may have been removed between the two looks.
            None if fs.is_there(&dir)? => return Ok(Standing::Lost(NOBODYS.into())),
            None => {}
        }
    }
    if fs.is_there(&Place::Rqueue.dir(msgid))? {
        return Ok(Standing::Arriving);
    }
    if let Some(notice) = Facts::read(fs, &format!("notices/{msgid}"))?
        && let Some(what) = notice.text("what")
    {
        return Ok(Standing::Lost(what.into()));
    }
    for place in ["queue", "hold"] {
        if Owner::read(fs, &format!("{place}/{msgid}"))?.is_some_and(|owner| owner.role == Role::Sender) {
            return Ok(Standing::Lost(format!("its directory {dir} is gone; its message lies in {place}/")));
        }
    }
    Ok(Standing::Nowhere)
}

/// Why a job is lost, if it is, and that can be read.
pub fn lost(fs: &dyn Fs, msgid: MsgId) -> Option<String> {
    match of(fs, msgid) {
        Ok(Standing::Lost(why)) => Some(why),
        Ok(Standing::Job(_) | Standing::Arriving | Standing::Nowhere) | Err(_) => None,
    }
}

/// How a job ended, as far as a mark says so; [`Outcome::Unknown`] if a mark of the recipient is
/// there and says nothing that can be believed.
pub fn outcome(fs: &dyn Fs, msgid: MsgId) -> fs::Result<Option<Outcome>> {
    let (dir, mut ended) = (Place::Jobs.dir(msgid), None);
    for mark in [Mark::Over, Mark::Done, Mark::RunExit] {
        if !fs.is_there(&format!("{dir}/{}", mark.name()))? {
            continue;
        }
        match look::mark(fs, &dir, mark)?.and_then(|facts| facts.value("outcome")) {
            Some(outcome) => return Ok(Some(outcome)),
            // The recipient is asked for it again.
            None if mark == Mark::Done => {}
            None => ended = Some(Outcome::Unknown),
        }
    }
    Ok(ended)
}

/// Is it final how a job ended? What cannot be read counts as no.
pub fn is_over(fs: &dyn Fs, msgid: MsgId, role: Role) -> bool {
    match role {
        Role::Sender => look::done(fs, msgid).is_ok_and(|done| done.is_some()),
        Role::Recipient => look::has(fs, &Place::Jobs.dir(msgid), Mark::Over),
    }
}

/// The taker of what comes of a job of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// A living `plumb`.
    Plumb,
    /// A living `plumb` that only reads along.
    Along,
    /// Whoever attaches later: the job was left.
    Later,
    /// No taker any more.
    Nobody,
}

/// Looks who takes what comes of a job of ours. Unknown counts as nobody.
pub fn taker(fs: &dyn Fs, msgid: MsgId) -> Taker {
    let dir = Place::Jobs.dir(msgid);
    let is_held = |name: &str| fs.is_locked(&format!("{dir}/{name}")).unwrap_or(false);
    let along = || fs.list(&dir).unwrap_or_default().iter().any(|e| e.name.starts_with(ALONG) && is_held(&e.name));
    match (is_held(PLUMB), fs.exists(&format!("{dir}/{DETACHED}"))) {
        (true, _) => Taker::Plumb,
        (false, true) => Taker::Later,
        (false, false) if along() => Taker::Along,
        (false, false) => Taker::Nobody,
    }
}

/// Why a text names no one id.
#[derive(Debug)]
pub enum Unfound {
    /// The text is no id, and no beginning of one.
    Bad(String),
    /// No id here begins so.
    Nothing(String),
    /// More than one id begins so.
    Several(String, Vec<MsgId>),
    /// The spool cannot be read.
    Disk(fs::Error),
}

impl From<fs::Error> for Unfound {
    fn from(error: fs::Error) -> Unfound {
        Unfound::Disk(error)
    }
}

impl fmt::Display for Unfound {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unfound::Bad(text) => write!(f, "{text}: an id is 40 hexadecimal digits, or its first few"),
            Unfound::Nothing(prefix) if prefix.len() == 40 => {
                write!(f, "job {prefix}: {NOWHERE}\n  hint: netplumb queue; netplumb jobs --all")
            }
            Unfound::Nothing(prefix) => {
                write!(f, "nothing here begins with {prefix}\n  hint: netplumb queue; netplumb jobs --all")
            }
            Unfound::Several(prefix, ids) => {
                write!(f, "{prefix} is ambiguous: {} ids begin so", ids.len())?;
                ids.iter().take(NAMED).try_for_each(|msgid| write!(f, "\n  {msgid}"))?;
                if ids.len() > NAMED { f.write_str("\n  …") } else { Ok(()) }
            }
            Unfound::Disk(error) => error.fmt(f),
        }
    }
}

/// Finds the one id here that begins with `text`, which may also be a path such as `queue/ID`.
pub fn find(fs: &dyn Fs, text: &str) -> Result<MsgId, Unfound> {
    let prefix = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    if prefix.is_empty() || prefix.len() > 40 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Unfound::Bad(text.into()));
    }
    let mut ids = BTreeSet::new();
    for place in Place::ALL {
        // A full id is not looked for among a hundred thousand.
        match prefix.parse() {
            Ok(msgid) if fs.exists(&place.dir(msgid)) => drop(ids.insert(msgid)),
            Ok(_) => {}
            Err(_) => {
                let all = place.ids(fs)?.into_iter();
                ids.extend(all.filter(|msgid| msgid.to_string().starts_with(&prefix)));
            }
        }
    }
    for directory in ASIDE {
        let names = fs.list(directory)?.into_iter().map(|entry| entry.name);
        ids.extend(names.filter(|name| name.starts_with(&prefix)).filter_map(|name| id_of(&name)));
    }
    match ids.len() {
        0 => Err(Unfound::Nothing(prefix)),
        1 => Ok(ids.pop_first().unwrap_or(MsgId::NONE)),
        _ => Err(Unfound::Several(prefix, ids.into_iter().collect())),
    }
}

/// The id at the front of a name.
pub fn id_of(name: &str) -> Option<MsgId> {
    name.get(..40)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Disk;
    use crate::layout::{PEER, make_dirs};
    use crate::name::Username;
    use std::time::Duration;

    const ID: MsgId = MsgId([7; 20]);

    fn spool() -> (tempfile::TempDir, Disk) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        crate::layout::DIRECTORIES.iter().for_each(|name| disk.make_dir(name).unwrap());
        (directory, disk)
    }

    fn own(disk: &Disk, dir: &str, role: Role) -> Owner {
        make_dirs(disk, dir).unwrap();
        let owner = Owner::new(disk, Username::of_ca(b"nas"), role, None).unwrap();
        owner.facts().hint(disk, &format!("{dir}/{PEER}")).unwrap();
        owner
    }

    #[test]
    fn a_job_stands_where_its_files_say_and_is_lost_when_they_cannot() {
        let (_directory, disk) = spool();
        let (dir, stands) = (Place::Jobs.dir(ID), || of(&disk, ID).unwrap());
        assert_eq!(stands(), Standing::Nowhere);
        disk.hint(&crate::layout::running(ID), b"").unwrap();
        assert_eq!(stands(), Standing::Nowhere, "what a keeper has left is no job");
        own(&disk, &Place::Rqueue.dir(ID), Role::Recipient);
        assert_eq!(stands(), Standing::Arriving);
        disk.remove(&Place::Rqueue.dir(ID)).unwrap();
        for place in ["queue", "hold"] {
            own(&disk, &format!("{place}/{ID}"), Role::Sender);
            assert!(
                matches!(stands(), Standing::Lost(why) if why.contains("is gone") && why.ends_with(&format!("{place}/")))
            );
            disk.remove(&format!("{place}/{ID}")).unwrap();
        }
        let owner = own(&disk, &dir, Role::Sender);
        assert_eq!(stands(), Standing::Job(owner));
        disk.hint(&format!("{dir}/{PEER}"), b"role=sender\n").unwrap();
        Facts::new().with("outcome", Outcome::NotStarted).hint(&disk, &format!("{dir}/over")).unwrap();
        assert_eq!(stands(), Standing::Lost(NOBODYS.into()), "whatever a mark there says");
        disk.remove(&dir).unwrap();
        Facts::new().with("what", "its directory is gone").hint(&disk, &format!("notices/{ID}")).unwrap();
        assert_eq!(stands(), Standing::Lost("its directory is gone".into()));
    }

    #[test]
    fn an_outcome_counts_by_its_marks_name_and_is_unknown_where_it_cannot_be_read() {
        let (_directory, disk) = spool();
        let put = |mark: Mark, text: &str| {
            let path = Place::Jobs.file(ID, mark.name());
            make_dirs(&disk, &Place::Jobs.dir(ID)).unwrap();
            match text.is_empty() {
                true => disk.hint(&path, b"rubbish").unwrap(),
                false => Facts::new().with("outcome", text).hint(&disk, &path).unwrap(),
            }
        };
        assert_eq!(outcome(&disk, ID).unwrap(), None);
        put(Mark::Done, "");
        assert_eq!(outcome(&disk, ID).unwrap(), None, "the recipient is asked again");
        put(Mark::Over, "");
        assert_eq!(outcome(&disk, ID).unwrap(), Some(Outcome::Unknown));
        put(Mark::RunExit, "exited 3");
        assert_eq!(outcome(&disk, ID).unwrap(), Some(Outcome::Exited(3)));
        put(Mark::Over, "cancelled");
        assert_eq!(outcome(&disk, ID).unwrap(), Some(Outcome::Cancelled));
    }

    #[test]
    fn a_job_that_was_left_stays_left_where_the_mark_of_that_is_damaged() {
        let (_directory, disk) = spool();
        own(&disk, &Place::Jobs.dir(ID), Role::Sender);
        let (path, left) = (Place::Jobs.file(ID, DETACHED), || look::detached(&disk, ID).unwrap());
        assert_eq!(left(), None);
        Facts::new().with("input", "open").hint(&disk, &path).unwrap();
        assert_eq!(left(), Some(false));
        disk.hint(&path, b"input=open\ncheck=00000000\n").unwrap();
        assert_eq!(left(), Some(true), "or its end would be forgotten unheard");
    }

    #[test]
    fn a_job_is_taken_by_those_who_live_or_waits() {
        let (_directory, disk) = spool();
        own(&disk, &Place::Jobs.dir(ID), Role::Sender);
        let lock = |name: &str| disk.lock_file(&Place::Jobs.file(ID, name), Duration::ZERO).unwrap().unwrap();
        assert_eq!(taker(&disk, ID), Taker::Nobody);
        let along = lock("along.3");
        assert_eq!(taker(&disk, ID), Taker::Along);
        Facts::new().with("input", "ended").hint(&disk, &Place::Jobs.file(ID, DETACHED)).unwrap();
        assert_eq!(taker(&disk, ID), Taker::Later);
        let plumb = lock(PLUMB);
        assert_eq!(taker(&disk, ID), Taker::Plumb);
        drop((along, plumb));
        assert_eq!(taker(&disk, ID), Taker::Later);
    }
}
