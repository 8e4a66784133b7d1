//! A connection whose peer must take what it is sent, and that begins with bytes already read.

use bytes::{Buf as _, Bytes};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The connection of an HTTP library.
pub(super) struct Patient<S> {
    stream: S,
    /// What was read before the library began.
    before: Bytes,
    /// Longest time without a byte taken by the client.
    idle_max: Duration,
    /// Runs while the client takes nothing.
    idle: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, before: Bytes, idle_max: Duration) -> Self {
        Self { stream, before, idle_max, idle: None }
    }

    /// Passes `progress` on, unless there has been none for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.idle = None;
            return progress;
        }
        let end = Instant::now() + self.idle_max;
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        ready!(idle.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing any more")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let count = self.before.len().min(buffer.remaining());
            buffer.put_slice(&self.before[..count]);
            self.before.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const IDLE_MAX: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut patient = Patient::new(ours, Bytes::from_static(b"before"), IDLE_MAX);
        theirs.write_all(b"after").await.expect("room");
        let mut read = [0; 11];
        patient.read_exact(&mut read).await.expect("both");
        assert_eq!(&read, b"beforeafter");

        // Slowly is good enough.
        let began = Instant::now();
        let (written, ()) = tokio::join!(patient.write_all(&[1; 32]), async {
            for _ in 0..4 {
                tokio::time::sleep(IDLE_MAX * 9 / 10).await;
                theirs.read_exact(&mut [0; 8]).await.expect("sent");
            }
        });
        written.expect("it makes progress");
        assert!(began.elapsed() > IDLE_MAX * 2);

        let began = Instant::now();
        let error = patient.write_all(&[1; 32]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), IDLE_MAX.as_secs());
    }
}
