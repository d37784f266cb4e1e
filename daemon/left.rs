//! Jobs of ours that were left (`plumb -detach`), and wait to be heard of.
//!
//! Only its directory knows of such a job. If anybody but the loop removes that, the job
//! is lost, and its owner is to be told; the loop finds a directory that is not there,
//! and cannot know that it was. This knows it from the loop's earlier reports; a removal
//! while no daemon runs is not noticed.

use spool::layout::Place;
use spool::name::MsgId;
use spool::report::{Report, Turn};
use std::collections::HashSet;

/// The text of the notice.
const REMOVED: &str = "its directory was removed from the spool; what became of it is not known";

/// The jobs that were reported to wait.
#[derive(Default)]
pub(crate) struct Left(HashSet<MsgId>);

impl Left {
    /// Takes in a report; the notice to be left, if a job is lost.
    pub(crate) fn note(&mut self, report: &Report) -> Option<String> {
        let (Place::Jobs, msgid) = report.about()? else { return None };
        if report.kept && report.turn != Turn::Gone {
            self.0.insert(msgid);
            return None;
        }
        // The loop says what it did where it removed the job itself.
        let is_lost = self.0.remove(&msgid) && report.turn == Turn::Gone && report.did.is_empty();
        is_lost.then(|| REMOVED.into())
    }

    /// Another loop tells of all of them anew. Its predecessor may have been killed between
    /// the removal of a job and its word on that.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(turn: Turn, kept: bool, did: &[&str]) -> Report {
        let did = did.iter().map(|word| word.to_string()).collect();
        Report { kept, did, ..Report::new(Place::Jobs, MsgId([1; 20]), turn) }
    }

    #[test]
    fn a_job_that_waited_and_is_gone_without_our_doing_is_lost() {
        let mut left = Left::default();
        assert_eq!(left.note(&report(Turn::Gone, false, &[])), None, "nobody knew of it");
        assert_eq!(left.note(&report(Turn::Rest, true, &[])), None);
        assert_eq!(left.note(&report(Turn::Gone, false, &[])).as_deref(), Some(REMOVED));
        assert_eq!(left.note(&report(Turn::Gone, false, &[])), None, "once");
    }

    #[test]
    fn a_job_that_the_loop_forgot_or_that_was_taken_up_again_is_not_lost() {
        let mut left = Left::default();
        left.note(&report(Turn::Live, true, &[]));
        assert_eq!(left.note(&report(Turn::Gone, true, &["cxl DONE"])), None);
        assert_eq!(left.note(&report(Turn::Gone, false, &[])), None, "its removal is an event, too");
        left.note(&report(Turn::Live, true, &[]));
        left.note(&report(Turn::Live, false, &[]));
        assert_eq!(left.note(&report(Turn::Gone, false, &[])), None);
        left.note(&report(Turn::Live, true, &[]));
        left.forget();
        assert_eq!(left.note(&report(Turn::Gone, false, &[])), None);
    }
}
