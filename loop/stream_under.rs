//! The link of one channel: what is under way on it, and what happens next.

use crate::net::{Answer, Body, NetError};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use tokio::task::JoinHandle;

pub(super) type Asked = Pin<Box<dyn Future<Output = Result<Answer, NetError>> + Send>>;
pub(super) type Paused = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The one thing that is under way on the link.
pub(super) enum Under {
    /// A GET.
    Get(Asked),
    /// Its bytes.
    Body(Body),
    /// A pause.
    Pause(Paused),
    /// END is held, and nothing follows.
    End,
}

/// An event on the link.
pub(super) enum Next {
    Answer(Result<Answer, NetError>),
    Bytes(Result<Option<Bytes>, NetError>),
    Again,
}

/// The next thing that happens on the link. Dropping this future loses nothing.
pub(super) async fn advance(under: &mut Under) -> Next {
    match under {
        Under::Get(asked) => Next::Answer(asked.await),
        Under::Body(body) => Next::Bytes(body.next().await),
        Under::Pause(paused) => {
            paused.await;
            Next::Again
        }
        Under::End => std::future::pending().await,
    }
}

/// Waits for a task that may not have been started; never ready then.
pub(super) async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(handle) => {
            let result = handle.await;
            *task = None;
            result
        }
        None => std::future::pending().await,
    }
}

/// A sync whose thread died: what it was about may be lost.
pub(super) fn lost_thread() -> spool::fs::Error {
    spool::fs::Error::unsynced("in", std::io::Error::other("the thread is gone"))
}
