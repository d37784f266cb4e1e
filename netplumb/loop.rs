//! `netplumb loop`: the daemon's worker, or one message by hand.

use crate::fail::{self, fail};
use spool::home::Home;
use spool::layout::Place;
use spool::report::{Report, Turn};

/// The words after the verb.
#[derive(clap::Args)]
#[command(long_about = "Without words: the daemon's worker, which takes orders on standard input until it ends.\n\
    With words: works on one message or job by hand, until the next move is somebody else's, and says what it did.")]
pub struct Args {
    /// `queue`, `rqueue` or `jobs`: the directory in which it lies.
    #[arg(requires = "msgid")]
    place: Option<String>,
    /// The message or job.
    msgid: Option<String>,
    /// One line of JSON for each report.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find()?;
    let (Some(place), Some(msgid)) = (&args.place, &args.msgid) else {
        crate::logging();
        return Ok(r#loop::worker::run(&home)?);
    };
    let place = Place::of(place).ok_or_else(|| fail(fail::USAGE, format!("{place}: not queue, rqueue or jobs")))?;
    let msgid = msgid.parse().map_err(|bad| fail(fail::USAGE, format!("{msgid}: {bad}")))?;
    let print = |report: Report| println!("{}", if args.json { report.line() } else { sentence(&report) });
    let report = r#loop::worker::by_hand(&home, place, msgid, print)?;
    let gone = report.turn == Turn::Gone && report.did.is_empty();
    print(report);
    if gone { Err(fail(fail::NO_ID, format!("{}/{msgid} is not here", place.word()))) } else { Ok(()) }
}

/// A report for a person.
fn sentence(report: &Report) -> String {
    let did = if report.did.is_empty() { "nothing to do".to_string() } else { report.did.join(", ") };
    let peer = report.peer.as_deref().unwrap_or("the peer");
    let turn = match report.turn {
        Turn::Gone => "it is done and gone".to_string(),
        Turn::Rest => "nothing to do until something changes".to_string(),
        Turn::Live => "its logs flow".to_string(),
        Turn::Peer => format!("{peer}'s turn ({})", report.cause.as_deref().unwrap_or("")),
        Turn::Later => format!("later ({})", report.cause.as_deref().unwrap_or("")),
    };
    let error = report.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} {}: {did}; {turn}{error}", report.place, report.msgid)
}
