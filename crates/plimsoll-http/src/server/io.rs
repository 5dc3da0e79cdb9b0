use super::connection::Conn;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Up to so many bytes in several pieces are made one before they are written: the kernel takes longer to
/// gather the head and the body of a small response than it takes to copy them.
const SMALL: usize = 512;

/// The stream of a connection. It tells the connection when bytes come in and whether they go
/// out, and holds the connection's place for as long as it lives, upgraded or not.
#[derive(Debug)]
pub(super) struct TrackedIo<I> {
    inner: I,
    conn: Arc<Conn>,
}

impl<I> TrackedIo<I> {
    pub(super) fn new(inner: I, conn: Arc<Conn>) -> Self {
        Self { inner, conn }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for TrackedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.conn.received(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for TrackedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.conn.wrote(wrote.is_pending());
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = [0; SMALL];
        let inner = Pin::new(&mut self.inner);
        let wrote = match in_one(bufs, &mut room) {
            Some(bytes) => inner.poll_write(cx, bytes),
            None => inner.poll_write_vectored(cx, bufs),
        };
        self.conn.wrote(wrote.is_pending());
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Copies several pieces, unless there is no room for them.
fn in_one<'a>(pieces: &[io::IoSlice<'_>], room: &'a mut [u8; SMALL]) -> Option<&'a [u8]> {
    let mut len = 0;
    for piece in pieces {
        room.get_mut(len..)?
            .get_mut(..piece.len())?
            .copy_from_slice(piece);
        len += piece.len();
    }
    (pieces.len() > 1).then(|| &room[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_is_written_in_one_piece_and_what_is_not_as_it_came() {
        let head = [1; SMALL - 3];
        let table: [(&[&[u8]], bool); 6] = [
            (&[&head, b"abc"], true),
            (&[&head, b"", b"ab", b"c"], true),
            (&[&head, b"abcd"], false),
            // There is nothing to gather.
            (&[b"abc"], false),
            (&[], false),
            (&[&[0; SMALL + 1], b""], false),
        ];
        for (pieces, is_one) in table {
            let slices: Vec<_> = pieces.iter().map(|piece| io::IoSlice::new(piece)).collect();
            let expected = is_one.then(|| pieces.concat());
            let mut room = [9; SMALL];
            assert_eq!(in_one(&slices, &mut room), expected.as_deref());
        }
    }
}
