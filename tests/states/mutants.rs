//! What each rule is for: with any of them taken out a search fails.

use super::converge::Pairs;
use super::every_state::{is_fast, least};
use super::faults::Faults;
use super::reach::Search;
use super::rules::*;
use super::words::World;

/// What the searches say.
#[derive(Debug, Default)]
struct Verdict {
    /// Of all states, how many do not come to rest.
    stuck: u128,
    /// Of all states, how many keep a message in the queue while nobody collects its job.
    queued: u128,
    /// Reachable with 2 crashes and replays.
    reachable: Vec<&'static str>,
    /// Reachable if the recipient may lose an undelivered directory.
    amnesia: Vec<&'static str>,
    /// Reachable if keeper and `plumb` may die, somebody may cancel, and answers may be late.
    jobs: Vec<&'static str>,
}

impl Verdict {
    fn of(rules: u64) -> Verdict {
        let world = World { rules: Rules::without(rules), ..World::default() };
        let names = |faults| Search { world, faults }.run().names();
        let two = Faults::crashes(2);
        let reachable = names(two);
        let amnesia = if reachable.is_empty() { names(Faults { amnesia: true, ..two }) } else { Vec::new() };
        Verdict { reachable, amnesia, ..Verdict::default() }
    }

    fn of_every_state(self, rules: u64) -> Verdict {
        let world = World { rules: Rules::without(rules), ..World::default() };
        let (senders, recipients) = least();
        let stuck = Pairs::new(&world, senders, recipients).search(|a, b| a.clean && b.clean).stuck;
        Verdict { stuck, ..self }
    }

    fn of_uncollected(self, rules: u64) -> Verdict {
        let world = World { rules: Rules::without(rules), uncollected: true, ..World::default() };
        let (senders, recipients) = least();
        let queued = Pairs::new(&world, senders, recipients).search(|a, _| a.settled).stuck;
        Verdict { queued, ..self }
    }

    fn of_jobs(self, rules: u64, world: World) -> Verdict {
        let world = World { rules: Rules::without(rules), ..world };
        let faults = Faults { keeper_dies: true, cancel: true, refuse: true, ..Faults::crashes(2) };
        let mut jobs = Search { world, faults }.run().names();
        for faults in [Faults { late: true, ..Faults::crashes(0) }, Faults { missing: 1, ..Faults::default() }] {
            jobs.extend(Search { world, faults: Faults { cancel: true, ..faults } }.run().names());
        }
        Verdict { jobs, ..self }
    }

    fn is_good(&self) -> bool {
        self.stuck == 0
            && self.queued == 0
            && self.reachable.is_empty()
            && self.amnesia.is_empty()
            && self.jobs.is_empty()
    }
}

#[test]
fn each_of_the_nine_rules_is_needed() {
    if !is_fast("mutants") {
        return;
    }
    let rules = [
        ("none", 0),
        ("1 demotion", DEMOTE),
        ("2 the sender keeps the message", KEEP_MESSAGE),
        ("3 a key is set aside once", KEY_ONCE),
        ("3 and 2", KEY_ONCE | KEEP_MESSAGE),
        ("3 and 4", KEY_ONCE | NAME_KEY),
        ("4 snd names its key", NAME_KEY),
        ("5 receipts under the pair key", PAIR_RECEIPT),
        ("6 delivery is one rename", ONE_RENAME),
        ("7 authentic replies", AUTHENTIC),
        ("8 ack of an unknown id is OK", ACK_UNKNOWN),
        ("9 both sides ask", ASK),
    ];
    let mut verdicts = Vec::new();
    for (name, rules) in rules {
        let mut verdict = Verdict::of(rules);
        if verdict.is_good() {
            verdict = verdict.of_every_state(rules);
        }
        if verdict.is_good() {
            // The end of the job ends its message too, but then it would have to be waited for.
            verdict = verdict.of_uncollected(rules);
        }
        println!("without {name}: {verdict:?}");
        verdicts.push((rules, verdict));
    }
    for (rules, verdict) in &verdicts {
        // Rule 3 is backed by rules 2 and 4, each of them.
        let needed = ![0, KEY_ONCE].contains(rules);
        assert_eq!(verdict.is_good(), !needed, "{rules:#x} {verdict:?}");
    }
    let reachable = |rules: u64| &verdicts.iter().find(|(other, _)| *other == rules).expect("it is listed").1.reachable;
    assert_eq!(*reachable(KEY_ONCE | KEEP_MESSAGE), ["lost"]);
    assert_eq!(*reachable(KEY_ONCE | NAME_KEY), ["cannot come to rest"]);
    assert_eq!(*reachable(ONE_RENAME), ["delivered twice"]);
}

#[test]
fn a_job_needs_the_order_of_its_marks() {
    let orders = [
        (0, None),
        (STARTED_FIRST, Some("started twice")),
        (NEVER_AGAIN, Some("started twice")),
        (EXIT_AFTER_OUTPUTS, Some("run.exit before END of the outputs")),
        (EXIT_FIRST, Some("EXIT before run.exit")),
        (SENT_FIRST, Some("told \"not started\" of what was started")),
        (HOLD_FIRST, Some("output is given up before it is held")),
    ];
    for (rules, wrong) in orders {
        judge(rules, World::default(), wrong);
    }
}

#[test]
fn a_batch_job_needs_its_order_as_well() {
    let batch = World { batch: true, ..World::default() };
    let repeat = World { repeat: true, ..batch };
    judge(0, batch, None);
    judge(WHOLE_FIRST, batch, Some("started before its input was whole"));
    judge(NEVER_AGAIN, batch, Some("started twice"));
    judge(0, repeat, None);
    judge(OFFER_LAST, repeat, Some("outputs offered before run.exit"));
    judge(STARTED_STAYS, repeat, Some("\"not started\" about what was started"));
    judge(EXIT_FIRST, repeat, Some("EXIT before run.exit"));
}

const STUCK: &str = "cannot come to rest";
const TWICE: &str = "started twice";
const FALSE_IDLE: &str = "told \"not started\" of what was started";
const FALSE_EXIT: &str = "an exit status of what did not end by itself";

/// Each rule for damaged files, and what goes wrong without it: the search that shows it, and how.
const DAMAGE: [(&str, u64, usize, &str); 22] = [
    ("a damaged log of ours is looked at", CHECK, 0, STUCK),
    ("plumb sees that its END is gone", SPOT, 0, STUCK),
    ("run.started counts by its name", STARTED_BY_NAME, 2, TWICE),
    // What was offered has its END, and that is seen as well.
    ("run.exit counts by its name", EXIT_BY_NAME | OFFERED_STAYS, 3, TWICE),
    ("what was offered is not run again", OFFERED_STAYS, 5, TWICE),
    ("run.exit, damaged, says nothing", EXIT_UNREAD, 2, FALSE_EXIT),
    ("cancel counts by its name", CANCEL_BY_NAME, 1, FALSE_IDLE),
    // Each of the two says that something has left: both must be damaged.
    ("sent and receipt count by their names", SENT_BY_NAME | RECEIPT_BY_NAME, 4, FALSE_IDLE),
    ("orphan", ORPHAN, 0, STUCK),
    ("lost, by its message", LOST_MESSAGE, 0, STUCK),
    ("lost, by its peer", LOST_PEER, 0, STUCK),
    ("send.ok is doubted", DOUBT_SEND_OK, 0, STUCK),
    ("peer.ok is doubted", DOUBT_PEER_OK, 0, STUCK),
    ("nameless", NAMELESS_IN, 0, STUCK),
    ("live without its receipt", LOST_RECEIPT, 0, STUCK),
    ("to-cancel without key", LOST_KEY, 0, STUCK),
    ("to-finish with a broken log", BROKEN, 0, STUCK),
    ("to-cancel under a living keeper", LIVING_LOSS, 0, STUCK),
    ("to-finish without peer", NAMELESS_ENDS, 0, STUCK),
    ("to-finish without message", MESSAGE_ENDS, 0, STUCK),
    ("a receipt is made again", VOUCH, 0, STUCK),
    ("an outcome without peer is told", NAMELESS_TELLS, 0, STUCK),
];

/// The searches with damaged files that show what the rules are for.
fn damaged(rules: u64) -> [Search; 6] {
    let plain = World { rules: Rules::without(rules), ..World::default() };
    let repeat = World { batch: true, repeat: true, ..plain };
    let one = Faults { damages: 1, ..Faults::default() };
    let cancel = Faults { cancel: true, ..one };
    let dies = Faults { keeper_dies: true, crashes: 1, ..one };
    [
        Search { world: plain, faults: one },
        Search { world: plain, faults: cancel },
        Search { world: plain, faults: dies },
        Search { world: repeat, faults: dies },
        Search { world: plain, faults: Faults { damages: 2, ..cancel } },
        Search { world: repeat, faults: Faults { missing: 1, ..Faults::default() } },
    ]
}

#[test]
fn each_rule_for_damaged_files_is_needed() {
    let mut alive = Vec::new();
    for (name, rules, search, wrong) in DAMAGE {
        let reached = damaged(rules)[search].run();
        println!("without {name}: {} states, {:?}", reached.states, reached.names());
        alive.extend((!reached.names().contains(&wrong)).then_some(name));
    }
    assert!(alive.is_empty(), "{alive:?}");
}

/// `cargo test --release --test main -- --ignored --nocapture each_rule_for_damaged`
#[test]
#[ignore = "minutes"]
fn each_rule_for_damaged_files_is_needed_in_every_search() {
    let (mut states, mut dead) = (0, 0);
    for (name, rules, _, wrong) in std::iter::once(("none", 0, 0, "")).chain(DAMAGE) {
        let all: Vec<_> = damaged(rules).iter().map(Search::run).collect();
        let names: Vec<&str> = all.iter().flat_map(|reached| reached.names()).collect();
        let visited = all.iter().map(|reached| reached.states).sum::<usize>();
        println!("without {name}: {visited} states, {names:?}");
        assert!(if rules == 0 { names.is_empty() } else { names.contains(&wrong) }, "{name}: {names:?}");
        (states, dead) = (states + visited, dead + usize::from(!names.is_empty()));
    }
    println!("{states} states, {dead} of {} mutants dead", DAMAGE.len());
    assert_eq!(dead, DAMAGE.len());
}

/// What goes wrong without these rules, if anything may.
fn judge(rules: u64, world: World, wrong: Option<&'static str>) {
    let verdict = Verdict::default().of_jobs(rules, world);
    println!("without {rules:#x}: {verdict:?}");
    match wrong {
        None => assert!(verdict.is_good(), "{verdict:?}"),
        Some(wrong) => assert!(verdict.jobs.contains(&wrong), "{rules:#x} {verdict:?}"),
    }
}
