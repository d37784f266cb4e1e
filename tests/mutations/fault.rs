//! A fault is one change of one path of a spool, written in words that can be kept.
//!
//! An example is `b jobs/{open}/message flip 17`: the side, a path below its spool, a verb and its
//! argument. `{open}` stands for the id of the job with this name, `{2}` below `onetime` for the
//! third key in stock; bytes that are no plain letters are written `%FF`. The same text strikes the
//! same file in every round that has such a job; `ground.rs` does it.

/// The two homes, by the letter that a fault's text begins with.
pub const SIDES: [&str; 2] = ["a", "b"];

/// The state in which a fault finds the processes of the struck side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The daemon runs.
    Live,
    /// The daemon was told to end, and is started again after the blow.
    Stopped,
    /// Daemon, service and loop were killed, and are started again after the blow.
    Killed,
    /// All keepers were killed too, and with them their commands.
    Crashed,
}

impl Mode {
    const WORDS: [(Mode, &str); 4] =
        [(Mode::Live, "live"), (Mode::Stopped, "stopped"), (Mode::Killed, "killed"), (Mode::Crashed, "crashed")];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Mode::WORDS.iter().find(|(mode, _)| *mode == self).map_or("", |(_, word)| word)
    }
}

/// The faults of one round, which strike at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blow {
    /// How the daemons of the struck sides are.
    pub mode: Mode,
    /// The faults, in the order in which they strike.
    pub faults: Vec<Fault>,
}

/// A change of one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Whose spool: an index into [`SIDES`].
    pub side: usize,
    /// Where in it, as in the fault's text.
    pub path: String,
    /// The change.
    pub verb: Verb,
}

/// A change that a path can suffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verb {
    /// The path is removed, a directory with all below it.
    Delete,
    /// All entries of a directory are removed.
    Empty,
    /// A file keeps so many thousandths of its bytes.
    Truncate(u64, Way),
    /// A file keeps so many bytes.
    Keep(u64, Way),
    /// The bit of this number changes, counted modulo the file's bits.
    Flip(u64, Way),
    /// All bytes become 0.
    Zero(Way),
    /// Bytes that mean nothing take the place of as many, drawn from this seed.
    Junk(u64, Way),
    /// The file says this number, with a checksum that fits; it may not have been there.
    Number(u64),
    /// The path changes places with another one of the same spool.
    Swap(String),
    /// A copy gets this path.
    Copy(String),
    /// Something odd takes its place; the old content lies outside the spool from then on.
    Become(Odd),
    /// A second name, outside the spool.
    SecondLink,
    /// Its mode becomes 000.
    Mode,
    /// The copy of this earlier moment is put back.
    Old(usize),
    /// Something odd appears where nothing was.
    Make(Odd),
}

/// How the content of a file changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The same file changes, also for a process that has it open.
    InPlace,
    /// Another file with the new content takes its name.
    Anew,
}

/// Kinds of files; a spool has no use for any but the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Odd {
    /// A file with some bytes.
    File,
    /// A directory with a file in it.
    Directory,
    /// A FIFO that nobody writes to.
    Fifo,
    /// A link to what was there, which lies outside the spool now; to nothing if nothing was.
    Link,
    /// A link to nothing.
    Dangling,
}

impl Odd {
    /// All of them.
    pub const ALL: [Odd; 5] = [Odd::File, Odd::Directory, Odd::Fifo, Odd::Link, Odd::Dangling];

    fn word(self) -> &'static str {
        match self {
            Odd::File => "file",
            Odd::Directory => "directory",
            Odd::Fifo => "fifo",
            Odd::Link => "link",
            Odd::Dangling => "dangling",
        }
    }

    fn of(word: &str) -> Option<Odd> {
        Odd::ALL.into_iter().find(|odd| odd.word() == word)
    }
}

impl std::fmt::Display for Blow {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.mode.word())?;
        self.faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {} {}", SIDES[self.side], self.path, self.verb.words())
    }
}

impl Verb {
    /// The verb alone, by which results are counted.
    pub fn word(&self) -> String {
        let words = self.words();
        let mut parts = words.split(' ');
        match (self, parts.next(), parts.next()) {
            (Verb::Become(_) | Verb::Make(_), Some(verb), Some(odd)) => format!("{verb} {odd}"),
            (_, verb, _) => verb.unwrap_or_default().into(),
        }
    }

    fn words(&self) -> String {
        let anew = |way: &Way| if *way == Way::Anew { "-anew" } else { "" };
        match self {
            Verb::Delete => "delete".into(),
            Verb::Empty => "empty".into(),
            Verb::Truncate(keeps, way) => format!("truncate{} {keeps}", anew(way)),
            Verb::Keep(bytes, way) => format!("keep{} {bytes}", anew(way)),
            Verb::Flip(bit, way) => format!("flip{} {bit}", anew(way)),
            Verb::Zero(way) => format!("zero{}", anew(way)),
            Verb::Junk(seed, way) => format!("junk{} {seed}", anew(way)),
            Verb::Number(number) => format!("number {number}"),
            Verb::Swap(with) => format!("swap {with}"),
            Verb::Copy(to) => format!("copy {to}"),
            Verb::Become(odd) => format!("become {}", odd.word()),
            Verb::SecondLink => "second-link".into(),
            Verb::Mode => "mode".into(),
            Verb::Old(moment) => format!("old {moment}"),
            Verb::Make(odd) => format!("make {}", odd.word()),
        }
    }

    fn parse(words: &str) -> Option<Verb> {
        let (verb, argument) = words.split_once(' ').unwrap_or((words, ""));
        let way = if verb.ends_with("-anew") { Way::Anew } else { Way::InPlace };
        let number = || argument.parse::<u64>().ok();
        Some(match verb.trim_end_matches("-anew") {
            "delete" => Verb::Delete,
            "empty" => Verb::Empty,
            "truncate" => Verb::Truncate(number()?, way),
            "keep" => Verb::Keep(number()?, way),
            "flip" => Verb::Flip(number()?, way),
            "zero" => Verb::Zero(way),
            "junk" => Verb::Junk(number()?, way),
            "number" => Verb::Number(number()?),
            "swap" => Verb::Swap(argument.into()),
            "copy" => Verb::Copy(argument.into()),
            "become" => Verb::Become(Odd::of(argument)?),
            "second-link" => Verb::SecondLink,
            "mode" => Verb::Mode,
            "old" => Verb::Old(argument.parse().ok()?),
            "make" => Verb::Make(Odd::of(argument)?),
            _ => return None,
        })
    }
}

impl std::str::FromStr for Blow {
    type Err = String;

    fn from_str(text: &str) -> Result<Blow, String> {
        let mut parts = text.split(';').map(str::trim);
        let word = parts.next().unwrap_or_default();
        let mode = Mode::WORDS.iter().find(|(_, known)| *known == word).map(|(mode, _)| *mode);
        let mode = mode.ok_or_else(|| format!("{word:?} is no mode"))?;
        let faults: Result<_, String> = parts.map(str::parse).collect();
        Ok(Blow { mode, faults: faults? })
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let wrong = || format!("{text:?} is no fault; one is: b jobs/{{open}}/message flip 17");
        let mut words = text.splitn(3, ' ');
        let (side, path, verb) = (words.next(), words.next(), words.next());
        let side = SIDES.iter().position(|letter| Some(*letter) == side).ok_or_else(wrong)?;
        let verb = verb.and_then(Verb::parse).ok_or_else(wrong)?;
        Ok(Fault { side, path: path.ok_or_else(wrong)?.into(), verb })
    }
}

/// The bytes of a path as a fault's text has them.
pub fn escape(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-~".contains(&byte);
    bytes.iter().map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The bytes that [`escape`] has written.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match hex.filter(|_| first == b'%') {
            Some(byte) => (bytes.push(byte), rest = &after[2..]),
            None => (bytes.push(first), rest = after),
        };
    }
    bytes
}

#[test]
fn a_fault_is_read_as_it_is_written() {
    let texts = [
        "live; b jobs/{open}/message flip 17",
        "stopped; a jobs/{open}/in/1/%FF%00 make fifo; b clock number 999999999999",
        "killed; a queue/{queued} swap queue/{held}; b onetime/{3}/key become dangling; a turned second-link",
        "live",
    ];
    for text in texts {
        let blow: Blow = text.parse().expect("a blow");
        assert_eq!(blow.to_string(), text);
    }
    assert_eq!(unescape(&escape(b"\xff\x00a%b/{}")), b"\xff\x00a%b/{}");
    for wrong in ["", "never", "live; c jobs flip 1", "live; a jobs", "live; a jobs flip x", "live; a jobs become egg"]
    {
        assert!(wrong.parse::<Blow>().is_err(), "{wrong}");
    }
}
