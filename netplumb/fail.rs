//! How a verb fails: a status of sysexits(3), and a line that says what and with what.

use std::fmt;
use std::io::{ErrorKind, Write};

/// Wrong words on the command line.
pub const USAGE: u8 = 64;
/// Bad data.
pub const DATA: u8 = 65;
/// No such message or job.
pub const NO_ID: u8 = 66;
/// No such peer.
pub const NO_PEER: u8 = 67;
/// A peer or service cannot be reached.
pub const UNAVAILABLE: u8 = 69;
/// Cannot be made, or is there already.
pub const CANNOT_CREATE: u8 = 73;
/// Trouble with disk or network.
pub const IO: u8 = 74;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;

/// An error with the status that it ends the program with.
#[derive(Debug)]
pub struct Fail(pub u8, pub String);

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Fail {}

/// Makes an error with a status.
pub fn fail(status: u8, what: impl fmt::Display) -> anyhow::Error {
    Fail(status, what.to_string()).into()
}

/// Ends a verb: flushes stdout, prints what failed, and gives the exit status.
pub fn exit(ran: anyhow::Result<()>) -> u8 {
    let flushed = match std::io::stdout().flush() {
        // A reader that went away misses nothing.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(fail(IO, format!("cannot write stdout: {error}"))),
        Ok(()) | Err(_) => Ok(()),
    };
    let Err(error) = ran.and(flushed) else { return 0 };
    eprintln!("netplumb: {error:#}");
    status(&error)
}

/// The status that an error ends the program with.
pub fn status(error: &anyhow::Error) -> u8 {
    if let Some(fail) = error.downcast_ref::<Fail>() {
        return fail.0;
    }
    if matches!(error.downcast_ref(), Some(::service::Error::Listen { .. })) {
        return UNAVAILABLE;
    }
    if matches!(error.downcast_ref(), Some(r#loop::worker::Error::Keygen(_))) {
        return CONFIG;
    }
    match home_error(error) {
        Some(spool::home::Error::Io { .. } | spool::home::Error::Spool(_)) => IO,
        Some(_) => CONFIG,
        None if error.is::<spool::fs::Error>() => IO,
        None => 1,
    }
}

/// What is wrong with the home, if that is what is wrong: service and loop pass it on as their own.
fn home_error(error: &anyhow::Error) -> Option<&spool::home::Error> {
    let worker = error.downcast_ref::<r#loop::worker::Error>();
    let service = error.downcast_ref::<::service::Error>();
    error
        .downcast_ref()
        .or(worker.and_then(|error| if let r#loop::worker::Error::Home(home) = error { Some(home) } else { None }))
        .or(service.and_then(|error| if let ::service::Error::Home(home) = error { Some(home) } else { None }))
}
