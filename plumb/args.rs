//! `plumb`'s command line: the grammar of rsh and ssh, as their callers write it.
//!
//! Options stand before and after HOST, up to the first word after it that is
//! none; `--` ends them. `-x=v`, `-x v`, `--x=v` and ssh's `-xv` are the same.
//! [`OPTIONS`] is the whole table. What ssh has and we need not (`-p`, `-o`,
//! `-x`, …) is taken and noted; an option that would change what runs and is
//! not built is an error, never left out in silence.
//!
//! Nothing is done here: the environment is an argument, the result a value.

use spool::bucket::Priority;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Run a command.
    Run(Request),
    /// Go on with a job that was left.
    Attach(Request, Attach),
    /// Say what is known about a host, and do nothing (`-G`).
    Config(Request),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// A command for a peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The peer, by the name that we call it.
    pub host: String,
    /// The remote user; empty: whoever the peer runs as.
    pub user: String,
    /// The command's words as they were given.
    pub words: Vec<Vec<u8>>,
    /// Variables that travel, with their values.
    pub env: Vec<(String, Vec<u8>)>,
    /// Beside other jobs with the same peer, where a limit holds.
    pub priority: Priority,
    /// Where the ending is told as JSON.
    pub status_fd: Option<i32>,
    /// Says more.
    pub verbose: bool,
    /// Says errors only.
    pub quiet: bool,
    /// Shows no progress, even on a terminal.
    pub no_progress: bool,
    /// The command's input is empty; attached: what there is of it is left as it is.
    pub no_input: bool,
    /// The job goes on without us.
    pub detach: bool,
    /// A peer that cannot be reached is not waited for.
    pub now: bool,
    /// It starts there when all of its input has arrived.
    pub batch: bool,
    /// It may be run again after a crash.
    pub repeat: bool,
    /// A command of this machine that makes the input.
    pub from: Option<String>,
    /// Input and output are compressed on their way.
    pub compress: bool,
    /// The port that was named, for `-G`; it has no use.
    pub port: Option<String>,
    /// Options that were taken and left out, for `-v`.
    pub ignored: Vec<String>,
}

/// A job to go on with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Its id, or the first digits of it.
    pub id: String,
    /// From which byte of its stdout on; without it, after what was last written.
    pub offset: Option<u64>,
}

/// A command line that cannot be followed.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which word, and why.
    pub what: String,
    /// Where the ending is to be told all the same, if that was read already.
    pub status_fd: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    User,
    Export,
    Priority,
    StatusFd,
    Verbose,
    Quiet,
    NoProgress,
    NoInput,
    Detach,
    Now,
    Attach,
    Offset,
    Batch,
    Repeat,
    From,
    Compress,
    Help,
    Version,
    Config,
    Port,
    SshOption,
    Escape,
    Subsystem,
    Ignored,
    NotBuilt,
}

struct Known {
    name: &'static str,
    takes_value: bool,
    means: Means,
}

const fn flag(name: &'static str, means: Means) -> Known {
    Known { name, takes_value: false, means }
}

const fn value(name: &'static str, means: Means) -> Known {
    Known { name, takes_value: true, means }
}

/// Every option. Those of one letter that take a value also take it attached.
const OPTIONS: &[Known] = &[
    value("l", Means::User),
    value("user", Means::User),
    value("export", Means::Export),
    value("priority", Means::Priority),
    value("status-fd", Means::StatusFd),
    flag("v", Means::Verbose),
    flag("vv", Means::Verbose),
    flag("vvv", Means::Verbose),
    flag("q", Means::Quiet),
    flag("no-progress", Means::NoProgress),
    flag("n", Means::NoInput),
    flag("detach", Means::Detach),
    value("attach", Means::Attach),
    value("offset", Means::Offset),
    flag("now", Means::Now),
    flag("batch", Means::Batch),
    flag("repeat", Means::Repeat),
    value("from", Means::From),
    flag("z", Means::Compress),
    flag("C", Means::Compress),
    flag("h", Means::Help),
    flag("help", Means::Help),
    flag("version", Means::Version),
    flag("V", Means::Version),
    flag("G", Means::Config),
    value("p", Means::Port),
    value("o", Means::SshOption),
    value("e", Means::Escape),
    flag("s", Means::Subsystem),
    flag("T", Means::Ignored),
    flag("x", Means::Ignored),
    flag("4", Means::Ignored),
    flag("6", Means::Ignored),
    flag("t", Means::NotBuilt),
    flag("tt", Means::NotBuilt),
    value("recipe", Means::NotBuilt),
    value("infifo", Means::NotBuilt),
    value("outfifo", Means::NotBuilt),
    value("socket", Means::NotBuilt),
];

/// Where OpenSSH's sftp-server lies on the systems that people have.
const SFTP_SERVER: &str = "sh -c 'PATH=$PATH:/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh:/usr/libexec:/usr/lib:\
                           /usr/local/libexec; exec sftp-server'";

/// Reads a command line, the program's name left out. `environment` looks up a variable.
pub fn parse(words: Vec<OsString>, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Line, Wrong> {
    let (request, attach) = (Request::default(), Attach::default());
    let mut reading = Reading { words: words.into_iter(), environment, request, attach, early: None };
    let read = reading.all();
    let status_fd = reading.request.status_fd;
    read.map_err(|what| Wrong { what, status_fd })?;
    let Reading { request, attach, early, .. } = reading;
    Ok(match early {
        None if !attach.id.is_empty() => Line::Attach(request, attach),
        early => early.unwrap_or(Early::Run).line(request),
    })
}

/// What an option asks for instead of running something; the first one counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Early {
    Run,
    Config,
    Help,
    Version,
}

impl Early {
    fn line(self, request: Request) -> Line {
        match self {
            Early::Run => Line::Run(request),
            Early::Config => Line::Config(request),
            Early::Help => Line::Help,
            Early::Version => Line::Version,
        }
    }
}

struct Reading<'a> {
    words: std::vec::IntoIter<OsString>,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    request: Request,
    attach: Attach,
    early: Option<Early>,
}

impl Reading<'_> {
    fn all(&mut self) -> Result<(), String> {
        let mut subsystem = false;
        let mut options_end = false;
        while let Some(word) = self.words.next() {
            let bytes = word.as_bytes();
            if !options_end && bytes == b"--" {
                options_end = true;
            } else if !options_end && bytes.len() > 1 && bytes[0] == b'-' {
                subsystem |= self.option(&word)?;
            } else if self.request.host.is_empty() {
                self.host(&word)?;
            } else {
                self.request.words.push(word.into_vec());
                self.request.words.extend(self.words.by_ref().map(OsStringExt::into_vec));
            }
            if matches!(self.early, Some(Early::Help | Early::Version)) {
                return Ok(());
            }
        }
        if !self.attach.id.is_empty() {
            return self.attaches();
        }
        if self.attach.offset.is_some() {
            return Err("-offset goes with -attach".into());
        }
        if self.request.host.is_empty() {
            return Err("no HOST; see plumb -h".into());
        }
        if self.early.is_some() {
            return Ok(());
        }
        if self.request.repeat && !self.request.batch {
            return Err("-repeat goes with -batch only: input that is fed as it comes cannot be fed again".into());
        }
        if subsystem {
            self.subsystem()?;
        }
        if self.request.no_input && self.request.from.is_some() {
            return Err("-n and -from: the command's stdin is empty, or comes from a command".into());
        }
        if self.request.words.iter().all(Vec::is_empty) {
            return Err(format!("no COMMAND for {}; there is no interactive shell", self.request.host));
        }
        Ok(())
    }

    /// `-attach` names a job, which has its peer and its command already.
    fn attaches(&self) -> Result<(), String> {
        let Request { verbose, quiet, no_progress, no_input, status_fd, .. } = self.request;
        let ignored = self.request.ignored.clone();
        let alone = Request { verbose, quiet, no_progress, no_input, status_fd, ignored, ..Request::default() };
        match self.request == alone {
            true => Ok(()),
            false => Err("-attach=ID goes with -offset, -n, -q and -v alone: the job has all else already".into()),
        }
    }

    fn host(&mut self, word: &OsStr) -> Result<(), String> {
        let text = word.to_str().ok_or("HOST is not text")?;
        let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
        if host.is_empty() {
            return Err(format!("no HOST in {text:?}"));
        }
        self.request.host = host.to_string();
        user.map_or(Ok(()), |user| self.user(user))
    }

    fn user(&mut self, name: &str) -> Result<(), String> {
        let before = &self.request.user;
        if name.is_empty() {
            return Err("an empty user name".into());
        }
        if !before.is_empty() && before != name {
            return Err(format!("two remote users, {before:?} and {name:?}"));
        }
        self.request.user = name.to_string();
        Ok(())
    }

    /// Follows one option; says whether it asks for a subsystem.
    fn option(&mut self, word: &OsStr) -> Result<bool, String> {
        let text = word.to_str().ok_or_else(|| format!("{word:?} is not text"))?;
        let (known, attached) = find(text).ok_or_else(|| format!("unknown option {text}; see plumb -h"))?;
        let name = known.name;
        let value = match (known.takes_value, attached) {
            (false, None) => String::new(),
            (false, Some(_)) => return Err(format!("-{name} takes no value")),
            (true, Some(value)) => value.to_string(),
            // An option that is not built is named before its value is missed.
            (true, None) if known.means == Means::NotBuilt => String::new(),
            (true, None) => {
                let next = self.words.next().ok_or_else(|| format!("-{name} wants a value"))?;
                next.into_string().map_err(|bad| format!("-{name}: {bad:?} is not text"))?
            }
        };
        let request = &mut self.request;
        match known.means {
            Means::User => self.user(&value)?,
            Means::Export => self.export(&value)?,
            Means::Priority => request.priority = value.parse().map_err(|bad| format!("-priority: {bad}"))?,
            Means::StatusFd => request.status_fd = Some(descriptor(&value)?),
            Means::Verbose => request.verbose = true,
            Means::Quiet => request.quiet = true,
            Means::NoProgress => request.no_progress = true,
            Means::NoInput => request.no_input = true,
            Means::Detach => request.detach = true,
            Means::Now => request.now = true,
            Means::Attach if value.is_empty() => return Err("-attach wants the id of a job".into()),
            Means::Attach => self.attach.id = value,
            Means::Offset => {
                let offset = spool::name::decimal(&value);
                self.attach.offset = Some(offset.ok_or_else(|| format!("-offset: {value:?} is no number of bytes"))?);
            }
            Means::Batch => request.batch = true,
            Means::Repeat => request.repeat = true,
            Means::From if value.is_empty() => return Err("-from: no command".into()),
            Means::From => request.from = Some(value),
            Means::Compress => request.compress = true,
            Means::Help => drop(self.early.get_or_insert(Early::Help)),
            Means::Version => drop(self.early.get_or_insert(Early::Version)),
            Means::Config => drop(self.early.get_or_insert(Early::Config)),
            Means::Port => {
                request.ignored.push(format!("-p {value}"));
                request.port = Some(value);
            }
            Means::SshOption => self.ssh_option(&value)?,
            Means::Escape if value == "none" => request.ignored.push("-e none".into()),
            Means::Escape => return Err("-e: only \"none\", there are no escape characters".into()),
            Means::Subsystem => return Ok(true),
            Means::Ignored => request.ignored.push(format!("-{name}")),
            Means::NotBuilt => return Err(format!("-{name} is not built yet")),
        }
        Ok(false)
    }

    /// `-export=A,B`: all of them must be set.
    fn export(&mut self, names: &str) -> Result<(), String> {
        for name in names.split(',') {
            if !is_variable(name) {
                return Err(format!("-export: {name:?} is not the name of a variable"));
            }
            let value = (self.environment)(name).ok_or_else(|| format!("-export: {name} is not set"))?;
            self.send(name, value);
        }
        Ok(())
    }

    fn send(&mut self, name: &str, value: OsString) {
        self.request.env.retain(|(before, _)| before != name);
        self.request.env.push((name.to_string(), value.into_vec()));
    }

    /// `-o K=V` or `-o 'K V'`. `SendEnv` sends what is set, `User` is `-l`, the rest is left out.
    fn ssh_option(&mut self, option: &str) -> Result<(), String> {
        let (key, value) = option.trim().split_once(['=', ' ']).unwrap_or((option, ""));
        let value = value.trim_start_matches([' ', '=']);
        if key.eq_ignore_ascii_case("user") {
            return self.user(value);
        }
        if key.eq_ignore_ascii_case("compression") && value.eq_ignore_ascii_case("yes") {
            self.request.compress = true;
            return Ok(());
        }
        if !key.eq_ignore_ascii_case("sendenv") {
            self.request.ignored.push(format!("-o {option}"));
            return Ok(());
        }
        for name in value.split_whitespace() {
            match (self.environment)(name).filter(|_| is_variable(name)) {
                Some(value) => self.send(name, value),
                None => self.request.ignored.push(format!("-o SendEnv={name} (no such variable here)")),
            }
        }
        Ok(())
    }

    /// ssh's `-s HOST sftp`, which scp asks for, is a command like any other here.
    fn subsystem(&mut self) -> Result<(), String> {
        match self.request.words.as_slice() {
            [one] if one == b"sftp" => self.request.words = vec![SFTP_SERVER.into()],
            _ => return Err("-s: sftp is the only subsystem".into()),
        }
        Ok(())
    }
}

/// Finds an option in the table, with the value that is attached to it.
fn find(text: &str) -> Option<(&'static Known, Option<&str>)> {
    let body = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
    let named = OPTIONS.iter().find(|known| known.name == name).map(|known| (known, value));
    let attached = || {
        let known = OPTIONS.iter().find(|known| {
            known.takes_value && known.name.len() == 1 && body.starts_with(known.name) && !text.starts_with("--")
        });
        known.map(|known| (known, Some(&body[1..])))
    };
    named.or_else(attached)
}

fn descriptor(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(0 | 1) => Err("-status-fd: 0 and 1 belong to the command".into()),
        Ok(fd) if (2..1 << 20).contains(&fd) => Ok(fd),
        _ => Err(format!("-status-fd: {text:?} is not a descriptor")),
    }
}

fn is_variable(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(word)
}
