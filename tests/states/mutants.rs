//! What each rule is for: with any of them taken out a search fails.

use super::converge::Pairs;
use super::every_state::{few, is_fast};
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
    fn of(rules: u32) -> Verdict {
        let world = World { rules: Rules::without(rules), ..World::default() };
        let names = |faults| Search { world, faults }.run().names();
        let two = Faults::crashes(2);
        Verdict { reachable: names(two), amnesia: names(Faults { amnesia: true, ..two }), ..Verdict::default() }
    }

    fn of_every_state(self, rules: u32) -> Verdict {
        let world = World { rules: Rules::without(rules), ..World::default() };
        let (senders, recipients) = few();
        let stuck = Pairs::new(&world, senders, recipients).search(|a, b| a.clean && b.clean).stuck;
        Verdict { stuck, ..self }
    }

    fn of_uncollected(self, rules: u32) -> Verdict {
        let world = World { rules: Rules::without(rules), uncollected: true, ..World::default() };
        let (senders, recipients) = few();
        let queued = Pairs::new(&world, senders, recipients).search(|a, _| a.settled).stuck;
        Verdict { queued, ..self }
    }

    fn of_jobs(self, rules: u32, world: World) -> Verdict {
        let world = World { rules: Rules::without(rules), ..world };
        let faults = Faults { keeper_dies: true, cancel: true, refuse: true, ..Faults::crashes(2) };
        let mut jobs = Search { world, faults }.run().names();
        jobs.extend(Search { world, faults: Faults { late: true, cancel: true, ..Faults::crashes(0) } }.run().names());
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
        let mut verdict = Verdict::of(rules).of_every_state(rules);
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
    let reachable = |rules: u32| &verdicts.iter().find(|(other, _)| *other == rules).expect("it is listed").1.reachable;
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

/// What goes wrong without these rules, if anything may.
fn judge(rules: u32, world: World, wrong: Option<&'static str>) {
    let verdict = Verdict::default().of_jobs(rules, world);
    println!("without {rules:#x}: {verdict:?}");
    match wrong {
        None => assert!(verdict.is_good(), "{verdict:?}"),
        Some(wrong) => assert!(verdict.jobs.contains(&wrong), "{rules:#x} {verdict:?}"),
    }
}
