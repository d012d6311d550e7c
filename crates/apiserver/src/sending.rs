//! An answer on its way out: what it holds until it is sent, and how long it may take.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::Body;
use crate::body::BodyError;
use crate::fairness::Permit;
use crate::metrics::LongRunning;
use crate::reply::Reply;

/// What goes with an answer.
#[derive(Default)]
pub struct Held {
    /// Seats, until nothing more of the answer is at hand.
    pub permit: Option<Permit>,
    /// Counts it as long as it lasts.
    pub _long_running: Option<LongRunning>,
    /// An answer that its client has not taken by then is cut off.
    pub deadline: Option<Instant>,
}

/// Answers that are made while they are sent keep what they hold; others are as good as sent.
pub fn hold(reply: Reply, mut held: Held) -> Reply {
    if reply.body().size_hint().exact().is_some() {
        return reply;
    }
    if let Some(permit) = &held.permit {
        permit.clients_turn();
    }
    match held.deadline.take() {
        Some(deadline) => {
            reply.map(|body| Bounded::new(Sending { body, held }.boxed_unsync(), deadline).boxed_unsync())
        }
        None => reply.map(|body| Sending { body, held }.boxed_unsync()),
    }
}

struct Sending {
    body: Body,
    held: Held,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if !matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.held.permit = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that is let go of at its deadline, even if nobody asks for it: a client that does not read does not keep it.
struct Bounded {
    body: Arc<Mutex<Option<Body>>>,
    timer: tokio::task::AbortHandle,
}

impl Bounded {
    fn new(body: Body, deadline: Instant) -> Bounded {
        let body = Arc::new(Mutex::new(Some(body)));
        let weak = Arc::downgrade(&body);
        let timer = tokio::spawn(async move {
            tokio::time::sleep_until(deadline).await;
            if let Some(body) = weak.upgrade() {
                let late = body.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(late);
            }
        });
        Bounded { body, timer: timer.abort_handle() }
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        match body.as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err("the client did not take the answer in time".into()))),
        }
    }
}
