//! Whether anything still happens on a connection of many requests.
//!
//! HTTP/2 has its own flow control: a client can keep answers open for ever without ever filling
//! the socket, or keep a connection without asking anything. Neither shows to the socket's timer.

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// What happens on one connection.
#[derive(Default)]
pub(super) struct Activity {
    /// Requests that are being decided: the server's turn, however long it takes.
    deciding: AtomicUsize,
    /// Grows with everything that happens.
    moves: AtomicU64,
}

/// A request that is being decided.
pub(super) struct Deciding(Arc<Activity>);

impl Activity {
    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request(self: &Arc<Self>) -> Deciding {
        self.deciding.fetch_add(1, Ordering::Relaxed);
        self.moved();
        Deciding(self.clone())
    }

    /// Ends when the client has done nothing for `idle_max`, or a little later.
    pub(super) async fn until_idle(&self, idle_max: Duration) {
        let mut seen = self.moves.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle_max).await;
            let moves = self.moves.load(Ordering::Relaxed);
            if moves == seen && self.deciding.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = moves;
        }
    }
}

impl Deciding {
    /// The answer is there; every part of it that is taken counts from now on.
    pub(super) fn answered<B>(self, body: B) -> Watched<B> {
        Watched { body, activity: self.0.clone() }
    }
}

impl Drop for Deciding {
    fn drop(&mut self) {
        self.0.moved();
        self.0.deciding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer.
pub(super) struct Watched<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.activity.moved();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn the_servers_own_time_is_no_idleness() {
        let idle_max = Duration::from_secs(30);
        let activity = Arc::new(Activity::default());
        let began = Instant::now();
        let deciding = activity.request();
        let decide = async {
            tokio::time::sleep(idle_max * 5).await;
            drop(deciding);
        };
        tokio::join!(activity.until_idle(idle_max), decide);
        assert!(began.elapsed() > idle_max * 5 && began.elapsed() <= idle_max * 8, "{:?}", began.elapsed());
    }
}
