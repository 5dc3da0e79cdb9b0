//! Bodies: that of a request on its way out, and that of a response until it is whole.

use super::HttpClientErrorKind;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use plimsoll_core::BoxError;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

pub(super) type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// What is known of the body of a request from outside.
#[derive(Default)]
pub(super) struct Sending {
    /// The body, once it is clear that nobody reads it.
    unread: Mutex<Option<BoxBody>>,
    /// All of it has been read, though maybe not yet written.
    read: AtomicBool,
}

/// The body of a request. One that was never read is there to be sent again.
pub(super) struct Outgoing {
    body: Option<BoxBody>,
    polled: bool,
    /// Bytes that the connection still asks for, where the head says how many there are: it does not
    /// ask for the end then.
    left: Option<u64>,
    sending: Arc<Sending>,
}

/// Makes a body whose errors are boxed.
struct BoxErrors<B>(Pin<Box<B>>);

impl Sending {
    pub(super) fn take_unread(&self) -> Option<BoxBody> {
        self.unread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(super) fn is_read(&self) -> bool {
        self.read.load(Relaxed)
    }
}

impl Outgoing {
    /// `announced` is how many bytes the head of the request says that there are.
    pub(super) fn new(body: BoxBody, announced: Option<u64>) -> (Self, Arc<Sending>) {
        let sending = Arc::new(Sending {
            unread: Mutex::new(None),
            read: AtomicBool::new(body.is_end_stream()),
        });
        let outgoing = Self {
            body: Some(body),
            polled: false,
            left: announced,
            sending: sending.clone(),
        };
        (outgoing, sending)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.polled = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(body.as_mut().poll_frame(cx));
        let is_end = frame.is_none() || body.is_end_stream();
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &frame) {
            let sent = frame.data_ref().map_or(0, Bytes::len);
            *left = left.saturating_sub(sent as u64);
        }
        if is_end || self.left == Some(0) {
            self.sending.read.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::new, Body::size_hint)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.polled {
            let mut unread = self
                .sending
                .unread
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *unread = self.body.take();
        }
    }
}

pub(super) fn boxed<B>(body: B) -> BoxBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Box::pin(BoxErrors(Box::pin(body)))
}

impl<B> Body for BoxErrors<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let frame = ready!(self.0.as_mut().poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Reads `body` to its end, into one buffer, and its trailers.
pub(super) async fn collect(
    mut body: Incoming,
    max_bytes: usize,
    max_trailer_bytes: usize,
) -> Result<(Bytes, HeaderMap), HttpClientErrorKind> {
    // The response to a HEAD announces a body that does not come.
    let announced = match body.is_end_stream() {
        true => Some(0),
        false => body.size_hint().exact(),
    };
    let too_large = HttpClientErrorKind::BodyTooLarge {
        limit: max_bytes,
        announced,
    };
    let expected = match announced.map(usize::try_from) {
        Some(Ok(bytes)) if bytes <= max_bytes => bytes,
        Some(_) => return Err(too_large),
        None => 0,
    };
    let mut data = Vec::with_capacity(expected);
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| HttpClientErrorKind::Failed(error.into()))?;
        match frame.into_data() {
            // It cannot overflow, for both are in memory.
            Ok(bytes) if data.len() + bytes.len() > max_bytes => return Err(too_large),
            Ok(bytes) => append(&mut data, &bytes, max_bytes),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    if list_bytes(&trailers) > max_trailer_bytes {
        return Err(HttpClientErrorKind::TrailersTooLarge {
            limit: max_trailer_bytes,
        });
    }
    // What is kept is as long as the body.
    data.shrink_to_fit();
    Ok((data.into(), trailers))
}

/// Appends to a buffer that at least doubles when it grows, but never past the limit.
fn append(data: &mut Vec<u8>, bytes: &[u8], max_bytes: usize) {
    let needed = data.len() + bytes.len();
    if needed > data.capacity() {
        let capacity = needed.max(data.capacity() * 2).min(max_bytes);
        data.reserve_exact(capacity - data.len());
    }
    data.extend_from_slice(bytes);
}

/// The size of a header list as HTTP/2 counts it (RFC 9113 §6.5.2).
fn list_bytes(headers: &HeaderMap) -> usize {
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + 32
    };
    headers.iter().map(field).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::VecDeque, task::Waker};

    /// A body of these pieces, which knows when it has given the last.
    struct Pieces(VecDeque<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let piece = self.0.pop_front();
            Poll::Ready(piece.map(|piece| Ok(Frame::data(Bytes::from(piece)))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn outgoing<const N: usize>(pieces: [&'static str; N]) -> (Outgoing, Arc<Sending>) {
        Outgoing::new(boxed(Pieces(pieces.into())), None)
    }

    fn read_one(body: &mut Outgoing) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(body).poll_frame(&mut cx).is_ready());
    }

    #[test]
    fn a_body_is_there_again_only_if_none_of_it_was_read() {
        let (body, sending) = outgoing(["a", "b"]);
        assert!(sending.take_unread().is_none());
        drop(body);
        assert!(sending.take_unread().is_some());
        assert!(sending.take_unread().is_none());

        let (mut body, sending) = outgoing(["a", "b"]);
        read_one(&mut body);
        drop(body);
        assert!(sending.take_unread().is_none());
    }

    #[test]
    fn a_buffer_doubles_up_to_the_limit() {
        let mut data = Vec::new();
        for (length, capacity) in [
            (1_000, 1_000),
            (1_500, 2_000),
            (2_400, 4_000),
            (4_001, 5_000),
        ] {
            let more = vec![b'x'; length - data.len()];
            append(&mut data, &more, 5_000);
            assert_eq!((data.len(), data.capacity()), (length, capacity));
        }
    }

    #[test]
    fn a_body_is_read_when_it_says_so() {
        let (mut body, sending) = outgoing(["a", "b"]);
        for is_read in [false, true] {
            read_one(&mut body);
            assert_eq!(sending.is_read(), is_read);
        }
        let (_body, sending) = outgoing([]);
        assert!(sending.is_read());
    }
}
