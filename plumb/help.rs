//! What `plumb -h` and `plumb -G` print.

use crate::args::Request;

/// The version, as `plumb --version` prints it.
pub fn version() -> String {
    format!("plumb {}\n", env!("CARGO_PKG_VERSION"))
}

/// What ssh's `-G` prints, as far as callers look: git asks it to learn whose options it may use.
pub fn config(request: &Request) -> String {
    let Request { host, user, port, .. } = request;
    let user = if user.is_empty() { std::env::var("USER").unwrap_or_default() } else { user.clone() };
    format!("host {host}\nhostname {host}\nuser {user}\nport {}\n", port.as_deref().unwrap_or("22"))
}

/// The help.
pub const HELP: &str = "\
Usage: plumb [options] HOST [options] COMMAND [ARG...]

Runs COMMAND on HOST with its stdin, stdout, stderr and exit status connected
here, as ssh does. Everything on its way is kept in files on both sides until
the other side has it safely: a broken link, a reboot of the router or a
restarted daemon costs time and nothing else. Without a connection the command
is queued, and plumb waits.

HOST is the name of a peer (netplumb peer list). Several words are joined with
blanks and run by the remote user's shell, if the peer allows that.

Options stand before or after HOST, up to the first word after it that is
none; -- ends them. -x=v, -x v and --x=v are the same.

  -l NAME, -user=NAME, NAME@HOST
                    run as this remote user
  -export=A,B       these variables go into the command's environment; one that
                    is not set here is an error, and nothing is sent
  -priority=P       high, normal or low: beside other jobs with this peer, where
                    its bwlimit holds
  -n                the command's stdin is empty; ours is not read
  -now              fail at once if the peer cannot be reached (75, not-started)
  -detach           hand the job over with all of its input, print its id, and
                    go; its output waits here
  -attach=ID        instead of HOST and COMMAND: go on with a job that was left,
                    after what was written last; if another plumb has it, only
                    read along. netplumb jobs lists them, netplumb wait ID waits
  -offset=N         with -attach: from byte N of stdout on, exactly
  -batch            the command starts when its whole input has arrived there;
                    if it breaks off before, or is larger than the peer's quota
                    allows, nothing runs
  -repeat           with -batch: it may be run again if its machine or keeper
                    dies; the output is that of one run, and comes at its end
  -from=COMMAND     run COMMAND here and let its output be the remote command's
                    stdin; the end of that is passed on only when COMMAND has
                    exited 0, else the remote command is killed
  -z, -C            compress input and output on their way (zstd)
  -q                say nothing but why there is no result
  -v                say more
  --no-progress     no progress line on a terminal (also PLUMB_NO_PROGRESS=1)
  -status-fd=N      write how it ended to descriptor N, as one line of JSON
  -G                print what ssh -G prints that callers ask for
  -h, --help        this
  -V, --version     the version

Written for ssh and accepted so that its callers work: -p N, -o K=V, -T, -x,
-4, -6, -e none do nothing (-v says so); -o SendEnv=NAME is an export if NAME
is set; -o User=NAME is -l; -o Compression=yes is -z; -s with sftp runs the
peer's sftp-server.

  rsync -a -e plumb /home/ nas:/backup/home/
  BORG_RSH=plumb borg create nas:repo::{now} ~
  GIT_SSH_COMMAND=plumb git clone nas:project.git
  scp -S plumb letter.pdf nas:
  tar cf - . | plumb nas 'cat >home.tar'
  plumb -z -from='pg_dump db' nas 'cat >db.sql.part && mv db.sql.part db.sql'

Signals: INT QUIT TERM HUP USR1 USR2 go to the remote command once the peer has
it. Before that INT, QUIT, TERM and HUP cancel it; plumb ends at once and says
whether it is certain that nothing was started. One of these four twice within
2 seconds cancels a running command; only INT leaves it to itself, if its input
has ended or comes from a terminal.

Exit status: that of the command; 128+N if signal N killed it. 255 if there is
none to pass on (128+N if a signal to plumb was the reason), and then the last
line on stderr is

  plumb: origin=transport status=S reason=R

   S  R
  64  usage              the command line is wrong
  66  no-such-job        -attach: no such job of ours is here
  67  no-such-peer       no peer of this name is known here
  74  input-incomplete   our input broke off; the command was killed
  74  output-failed      our stdout or stderr could not be written
  74  disk               the disk of this machine failed
  75  not-started        nothing ran and nothing will: trying again is safe
  76  outcome-unknown    sent, or lost here; what became of it is not known
  76  interrupted        it was started, and its machine or keeper died
  76  cancelled          it was ended on request while it ran
  76  detached           it goes on; come back with -attach
  76  output-incomplete  part of its output is lost
  77  refused            the peer does not allow it; it did not run
  78  config             identity, keys or settings are not as they must be

A status that is not in this table means failure too.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ending::Reason;

    #[test]
    fn the_help_lists_every_reason_with_its_status_and_fits_a_terminal() {
        for reason in Reason::ALL {
            let line = format!("  {}  {} ", reason.status(), reason.word());
            assert!(HELP.contains(&line), "{line:?}");
        }
        assert!(HELP.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn git_finds_the_lines_that_it_looks_for() {
        let request = Request { host: "nas".into(), user: "bob".into(), ..Request::default() };
        assert_eq!(config(&request), "host nas\nhostname nas\nuser bob\nport 22\n");
    }
}
